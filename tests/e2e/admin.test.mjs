// The admin listener's page as the built command serves it, with tunnels of the `ws` library over two servers. What
// takes invented circumstances is in admin_page.test.mjs.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { readPage } from "./admin_mock.mjs";
import { agrees, lists, rowOf, says, tunnels, until, visit } from "./admin_view.mjs";
import { desktop, phone, shots } from "./browser.mjs";
import { dial, folder, message, next, startAdit, startServer } from "./support.mjs";

const EACH = 6;   // tunnels that a server has

/** adit with two servers, an admin listener and so many tunnels; `asks` asks the listener itself. */
async function start(t, admin = "") {
  const servers = [await startServer(t), await startServer(t)];
  for (const server of servers) {
    server.on("connection", socket => socket.on("message", data => socket.send(`${data}`)));
  }
  const proxy = await startAdit(t, `
[admin]
listen = "127.0.0.1:0"
${admin}
[timeouts]
drain = "1h"
[[listener]]
listen = "127.0.0.1:0"
upstream = "websocket"
[[listener.route]]
path = "/rooms"
upstream = "websocket"
[upstream.websocket]
servers = ${JSON.stringify(servers.map(({ authority }) => authority))}
`);
  const listensFor = / operators are listened for on (\S+)/;
  proxy.origin = `http://${await proxy.line("operators' address", line => listensFor.exec(line)?.[1])}`;
  const clients = [];
  for (let number = 0; number < 2 * EACH; number++) {
    const client = dial(t, proxy.address, { path: number % 3 ? `/rooms/${number}` : `/${number}?secret=s` });
    await next(client, "open");
    const heard = message(client);
    client.send("hello ".repeat(number + 1));
    await heard;
    clients.push(client);
  }
  return { proxy, servers, clients };
}

const ask = (proxy, what, headers = {}) => fetch(`${proxy.origin}${what}`, { headers }).then(answer => answer.json());

test("the command serves the page that is in the source, with the policy that fits it", async t => {
  const { proxy } = await start(t);
  const answer = await fetch(proxy.origin), { html, policy } = readPage();
  assert.equal(await answer.text(), html);
  const rules = policy => policy.split(/;\s*/).sort();
  assert.deepEqual(rules(answer.headers.get("content-security-policy")), rules(policy));
});

for (const viewport of [desktop, phone]) {
  test(`figures, a drain and closed tunnels, ${viewport.width} px wide`, async t => {
    const { proxy, servers, clients } = await start(t);
    const { page, complaints } = await visit(t, proxy.origin, { viewport });
    const status = () => ask(proxy, "/status"), shown = Math.min(clients.length, viewport === phone ? 10 : 25);
    await agrees(page, status);
    await lists(page, shown);
    assert.equal(await page.locator(".now").first().innerText(), String(2 * EACH));
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= viewport.width, `the page is ${width} px wide`);
    await page.screenshot({ path: path.join(shots, `admin-live-${viewport.width}.png`), fullPage: true });

    const [{ authority: name }] = servers, row = rowOf(page, "servers", name);
    assert.equal(await row.locator(".count button").innerText(), String(EACH));
    await row.getByRole("button", { name: "Drain server" }).click();
    const drain = page.getByRole("dialog", { name: `Drain server ${name} of upstream websocket?` });
    await drain.getByRole("button", { name: `Drain ${EACH} tunnels` }).click();
    const state = async () => (await row.locator(".state-of").innerText()).trim();
    await until(page, "it drains", async () => assert.equal(await state(), "drains\nby an operator"));
    await agrees(page, status);
    const [server] = (await status()).upstreams[0].servers;
    assert.deepEqual([server.state, server.drains, server.tunnels], ["drains", "operator", EACH]);
    await row.getByRole("button", { name: "Undrain server" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Undrain" }).click();
    await until(page, "it is in", async () => assert.equal(await state(), "in"));

    const [oldest] = (await ask(proxy, "/tunnels")).tunnels;
    const ended = next(clients[0], "close");
    await tunnels(page).first().getByRole("button", { name: `Close the tunnel of ${oldest.client}` }).click();
    const words = await page.getByRole("dialog", { name: "Close this tunnel?" }).innerText();
    assert.ok(words.includes(oldest.id) && !words.includes("secret"), words);
    await page.getByRole("button", { name: "Close 1 tunnel" }).click();
    await ended;
    await until(page, "it goes", async () => assert.equal(await page.locator("#list").getByText(oldest.id).count(), 0));
    await agrees(page, status);

    await page.locator("#filters").evaluate(details => details.open = true);
    const field = name => page.locator(`#filter [name=${name}]`);
    await field("route").fill("*/rooms");
    await field("client").fill("127.0.0.0/8");
    await page.getByRole("button", { name: "Filter", exact: true }).click();
    const { matched } = await ask(proxy, "/tunnels?route=*/rooms");
    assert.equal(matched, 8);
    await says(page, "#matched", /^8 of 11 match$/);
    const inRooms = clients.filter((_, number) => number % 3).map(client => next(client, "close"));
    await page.getByRole("button", { name: "Close all 8 that match…" }).click();
    const close = page.getByRole("dialog", { name: "Close 8 tunnels?" });
    await close.getByRole("button", { name: "Close 8 tunnels" }).click();
    await Promise.all(inRooms);
    await page.getByText("No open tunnel matches the filter.").waitFor();
    await page.getByRole("button", { name: "Clear" }).click();
    await lists(page, 3);
    await agrees(page, status);
    const heard = message(clients[3]);
    clients[3].send("still here");
    assert.equal(await heard, "still here", "the others go on");

    await page.locator("#filters").evaluate(details => details.open = true);
    await field("min_idle").fill("soon");
    await page.keyboard.press("Enter");
    await says(page, "#wrong", /^The filter is not understood: min_idle: "soon"/);
    assert.deepEqual(complaints.filter(words => !words.includes("400")), []);
  });
}

test("with a token the page shows nothing before it has it, and all behind it", async t => {
  const file = path.join(folder(t), "token");
  writeFileSync(file, "c0ffee\n", { mode: 0o600 });
  const { proxy } = await start(t, `token_file = ${JSON.stringify(file)}`);
  assert.equal((await fetch(`${proxy.origin}/status`)).status, 401);
  const { page, complaints } = await visit(t, proxy.origin);
  const dialog = page.getByRole("dialog", { name: "This adit wants its token" });
  await dialog.getByLabel("Token").fill("c0ffee");
  await page.keyboard.press("Enter");
  await agrees(page, () => ask(proxy, "/status", { Authorization: "Bearer c0ffee" }));
  await lists(page, 2 * EACH);
  assert.deepEqual(complaints.filter(words => !words.includes("401")), []);

  // It stops: what is left of it is said, and then that it is away.
  proxy.child.kill("SIGTERM");
  await says(page, "#phase", /^draining, ends in (1h 00m|59m \d\ds)$/);
  proxy.child.kill("SIGTERM");
  await says(page, "#away", /^adit does not answer\. /);
});
