// The admin listener's page as its tests see it: opened in a browser, read, and compared with /status.

import assert from "node:assert/strict";

import { browse, desktop } from "./browser.mjs";
import { within } from "./support.mjs";

/** The page in a browser, and what it did wrong: any complaint, violation of its policy, dialog or foreign request. */
export async function visit(t, at, { viewport = desktop, prepare, ...options } = {}) {
  const { page, complaints } = await browse(t, { viewport, ...options });
  page.on("request", request => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== at && protocol !== "data:") complaints.push(request.url());
  });
  page.on("dialog", dialog => complaints.push(`a dialog: ${dialog.message()}`) && dialog.dismiss());
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", event => console.log("violates", event.violatedDirective));
  });
  await prepare?.(page);
  await page.goto(at);
  return { page, complaints };
}

/** Waits until the page says so, and has it look at once instead of in two seconds. */
export async function until(page, what, check) {
  const wait = async () => {
    for (;;) {
      try {
        return await check();
      } catch (error) {
        if (!(error instanceof assert.AssertionError)) throw error;
        wait.last = error;
      }
      await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      await new Promise(resolve => setTimeout(resolve, 50));
    }
  };
  return within(wait(), what).catch(error => {
    throw wait.last ?? error;
  });
}

export const text = (page, selector) => page.locator(selector).innerText();
export const count = number => number.toLocaleString("en");
export const tunnels = page => page.locator("#list tbody tr");

export function rowOf(page, table, name) {
  return page.locator(`#${table} tr`, { has: page.getByText(name, { exact: true }) });
}

function bytes(number) {
  const unit = Math.max(0, Math.floor(Math.log10(number) / 3));
  return `${Number((number / 1000 ** unit).toPrecision(3))} ${["B", "kB", "MB", "GB"][unit]}`;
}

/** Waits for as many rows in the list. */
export function lists(page, number) {
  return until(page, `${number} rows`, async () => assert.equal(await tunnels(page).count(), number));
}

/** Waits until this part has these words. */
export function says(page, selector, words) {
  return until(page, `${selector}: ${words}`, async () => assert.match(await text(page, selector), words));
}

/** All that the page has of /status, as it stands there. */
async function figures(page) {
  return page.evaluate(() => {
    const rows = id => [...document.querySelectorAll(`#${id} tbody tr`)].map(row =>
      [...row.querySelectorAll("th > span:first-child, .state, .spare, .share > span:last-child, .count, td.n")]
        .map(part => part.textContent).filter(Boolean).join(" | "));
    return {
      now: [...document.querySelectorAll(".now")].map(node => node.textContent),
      notes: [...document.querySelectorAll("figure small")].map(node => node.textContent),
      facts: [...document.querySelectorAll("#facts div")].map(node => node.innerText.replace("\n", ": ")),
      phase: document.querySelector("#phase").textContent,
      matched: document.querySelector("#matched").textContent,
      servers: rows("servers"), listeners: rows("listeners"), refusals: rows("refusals"), ends: rows("ends"),
    };
  });
}

/** The same, made of /status. */
function expected(status) {
  const some = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
  const by = { file: ["by the file"], operator: ["by an operator"] };
  const line = (...parts) => parts.flat().filter(part => part !== "").join(" | ");
  return {
    phase: status.phase,
    matched: `${count(status.tunnels.open)} open`,
    servers: status.upstreams.flatMap(({ upstream, balance, tunnels, sessions, servers }) => [
      line(upstream, `${balance}, ${some(tunnels, "tunnel")}, ${some(sessions, "session")}`),
      ...servers.map(server => line(server.server, [
        server.backup && "backup", server.weight > 1 && `weight ${server.weight}`,
        server.max_conns && `${count(server.sessions)} of ${server.max_conns} sessions`,
        `${count(server.opened)} opened`, server.failures && some(server.failures, "failure"),
      ].filter(Boolean).join(", "), server.state, by[server.drains] ?? [], `${(100 * server.share).toFixed(1)} %`,
      count(server.tunnels))),
    ]),
    listeners: status.listeners.flatMap(({ listener, protocol, drains, tunnels, routes }) => [
      line(listener, protocol, drains ? "drains" : "open", by[drains] ?? [], count(tunnels)),
      ...routes.map(({ route, upstream, drains, tunnels }) =>
        line(route, `to ${upstream}`, drains ? "drains" : "open", by[drains] ?? [], count(tunnels))),
    ]),
    refusals: Object.entries(status.refusals).sort((a, b) => b[1] - a[1])
      .map(([rule, number]) => line(rule, count(number))),
    ends: [...status.ends].sort((a, b) => b.count - a.count)
      .map(({ outcome, by, count: number }) => line(outcome, `by ${by}`, count(number))),
  };
}

/** Waits until the page has the figures of /status, which `ask` asks for. */
export async function agrees(page, ask) {
  return until(page, "the figures of /status", async () => {
    const { now, notes, facts, ...shown } = await figures(page), status = await ask();
    const { sessions, descriptors } = status;
    assert.deepEqual(shown, expected(status));
    assert.equal(now[0], count(status.tunnels.open));
    const all = [count(status.tunnels.opened), bytes(status.bytes.up), bytes(status.bytes.down)];
    assert.deepEqual(notes.slice(1), all.map(words => `${words} since the start`));
    assert.ok(facts.includes(`Sessions: ${count(sessions.open)} of ${count(sessions.limit)}`), facts.join());
    assert.ok(facts.includes(`Descriptors: ${count(descriptors.used)} of ${count(descriptors.limit)}`), facts.join());
    return { now, notes, facts };
  });
}
