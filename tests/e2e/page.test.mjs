// The page of `adit demo` in a real browser, in both widths and in light and dark.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";

import { desktop, open, phone, shots } from "./browser.mjs";
import { Program, adit } from "./support.mjs";

async function startDemo(t) {
  const { RUST_LOG, ...env } = process.env;
  const demo = new Program(t, adit, ["demo"], { env });
  demo.page = await demo.line("the page's address", line => /^page +(http:\S+)$/.exec(line)?.[1]);
  return demo;
}

/** Waits until the page shows this state. */
function shows(page, state) {
  return page.locator(`#state[data-state="${state}"]`, { hasText: state }).waitFor();
}

function lineOf(page) {
  return page.getByRole("textbox", { name: "Message" });
}

/** Types a line, sends it with `send`, and waits until it is back. */
async function say(page, text, send) {
  await lineOf(page).fill(text);
  await send();
  await page.locator("#log li.back", { hasText: text }).waitFor();
}

const sights = [desktop, phone].flatMap(viewport => ["light", "dark"].map(colorScheme => ({ viewport, colorScheme })));
for (const { viewport, colorScheme } of sights) {
  test(`a line typed into the page comes back, ${viewport.width} px wide and ${colorScheme}`, async t => {
    const demo = await startDemo(t);
    const isPhone = viewport === phone;
    const { page, complaints } = await open(t, demo.page, { viewport, colorScheme });
    await shows(page, "open");
    await say(page, "Hello", () => page.keyboard.press("Enter"));
    const button = page.getByRole("button", { name: "Send" });
    await say(page, "Grüße, привет <b>& tags</b>", () => (isPhone ? button.tap() : button.click()));
    await say(page, `a long one ${"without_a_break".repeat(12)}`, () => page.keyboard.press("Enter"));

    assert.deepEqual(await page.locator("#log li").evaluateAll(all => all.map(item => item.className)), [
      "back", "sent", "back", "sent", "back", "sent",
    ]);
    assert.equal(await lineOf(page).inputValue(), "", "the line is empty for the next one");
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= viewport.width, `the page is ${width} px wide`);
    for (const part of [lineOf(page), button]) {
      const { x, width: wide, height } = await part.boundingBox();
      assert.ok(x >= 0 && x + wide <= viewport.width && height >= 44, "it is in sight and large enough for a finger");
    }

    const file = path.join(shots, `demo-${viewport.width}-${colorScheme}.png`);
    await page.screenshot({ path: file });
    t.diagnostic(`screenshot: ${file}`);
    assert.deepEqual(complaints, []);
  });
}

test("the page says when the tunnel is closed, and offers to open it again", async t => {
  const demo = await startDemo(t);
  const { page } = await open(t, demo.page, { viewport: phone });
  await shows(page, "open");
  demo.child.kill("SIGTERM"); // which leaves the tunnel two seconds
  await shows(page, "closed");
  await page.getByRole("button", { name: "Reconnect" }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Send" }).isDisabled(), true);
  await page.screenshot({ path: path.join(shots, "demo-390-closed.png") });
});
