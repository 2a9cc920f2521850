// The admin listener's page, in front of a mock of the listener (admin_mock.mjs) that can be attacked with, taken away
// and given a token. The page before the built command is in admin.test.mjs.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";

import { Admin, World, readPage } from "./admin_mock.mjs";
import { agrees, count, lists, rowOf, says, text, tunnels, until, visit } from "./admin_view.mjs";
import { desktop, phone, shots } from "./browser.mjs";
import { after, within } from "./support.mjs";

const HOSTILE = "<img src=x onerror=alert(1)>";
const LONG = `${"a-host-of-many-letters".repeat(11)}.example.com`;

/** Lets a page's time go by only where the test says so. */
async function stopClock(page) {
  const noon = Date.parse("2026-11-25T12:00:00Z");
  await page.clock.install({ time: noon });
  await page.clock.pauseAt(noon + 1000);
}

async function startAdmin(t, { token, ...more } = {}) {
  const admin = await new Admin(new World(more), { token }).start();
  after(t, () => admin.server.listening && admin.stop());
  return admin;
}

test("the page has one style and one script, and nothing in it makes markup of text", () => {
  const { html } = readPage();
  assert.equal(html.match(/<style|<script/g).length, 2);
  assert.doesNotMatch(html, /\s(style|on\w+)=["']/, "what the policy would not let in");
  assert.doesNotMatch(html, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function/);
  assert.deepEqual([...html.matchAll(/\b(?:https?:)?\/\/[\w.]+/g)].map(String),
    ["http://www.w3.org", "http://www.w3.org"], "the name of SVG, and no address");
  assert.ok(Buffer.byteLength(html) < 48 << 10, `${Buffer.byteLength(html)} bytes`);
});

test("the figures are those of /status, and follow it", async t => {
  const admin = await startAdmin(t, { tunnels: 300 }), { world } = admin;
  const { page, complaints } = await visit(t, admin.origin);
  const { facts } = await agrees(page, () => world.status());
  assert.ok(facts.includes("Configuration: 3f2a9c1b, 1h 30m old"), facts.join());
  for (let step = 0; step < 5; step++) {
    world.advance(5);
    await agrees(page, () => world.status());
  }
  world.upstreams[0].servers[0].state = "out";
  world.upstreams[0].servers[3].state = "in";
  world.listeners[0].routes[0].drains = "file";
  world.upstreams.push({ upstream: "new", balance: "hash", rebalance: false, rebalancing: true, servers: [] });
  world.upstreams[3].rebalancing = false;
  world.listeners.splice(1, 1);
  world.refusals["this route drains"] = 1234;
  await agrees(page, () => world.status());
  for (const part of ["#said", "#seen"]) {
    await says(page, part, /server 192\.168\.100\.10:8010 of upstream websocket: out/);
    await says(page, part, /route chat\.example\.com\/wsapp\/ of listener 0\.0\.0\.0:8020: drains/);
  }
  world.phase = "draining";
  await says(page, "#phase", /^draining, ends in 12s$/);
  assert.deepEqual(complaints, []);
});

test("the charts have the history and the present, with units, and are read by pointer and keys", async t => {
  const admin = await startAdmin(t, { tunnels: 300 }), { world } = admin;
  const { page, complaints } = await visit(t, admin.origin, { prepare: stopClock });
  await agrees(page, () => world.status());
  const charts = await page.locator("figure").evaluateAll(all => all.map(figure => ({
    title: figure.querySelector("figcaption").textContent,
    ticks: [...figure.querySelectorAll("text")].map(node => node.textContent),
    points: figure.querySelector(".curve").getAttribute("d").split("L").length,
    label: figure.querySelector("svg").getAttribute("aria-label"),
  })));
  const titles = ["Open tunnels", "Opened", "Bytes from clients", "Bytes to clients"];
  assert.deepEqual(charts.map(({ title }) => title), titles);
  const [open, opened, up] = charts;
  for (const { ticks, points } of charts) {
    assert.deepEqual(ticks.slice(-4), ["−15 min", "−10", "−5", "now"]);
    assert.ok(ticks.length >= 6 && ticks.length <= 8, ticks.join());
    assert.ok(points >= 178, `${points}`);
  }
  const { tunnels: history } = world.past();
  const range = `from ${Math.min(...history)} to ${Math.max(...history)}`;
  assert.equal(open.label, `Open tunnels, ${history.at(-1)} now, ${range}`);
  assert.match(opened.ticks[1], /^[\d.]+\/s$/);
  assert.match(up.ticks[1], /^\d+ k?B\/s$/);

  const value = () => page.locator(".now").first().innerText();
  await page.locator("#charts").focus();
  for (let key = 0; key < 6; key++) await page.keyboard.press("PageUp");
  const at = world.past().time.findIndex(time => time >= world.now - 360);
  assert.equal(await value(), count(history[at]), "six minutes ago");
  assert.match(await page.locator("figure small").nth(1).innerText(), /^at \d\d:\d\d:\d\d$/);
  await page.keyboard.press("ArrowRight");
  assert.equal(await value(), count(history[at + 2]));
  await page.keyboard.press("Escape");
  assert.equal(await value(), count(history.at(-1)));
  const box = await page.locator("figure svg").nth(2).boundingBox();
  await page.mouse.move(box.x, box.y + 20);
  assert.equal(await value(), count(history[0]), "the pointer reads all charts at the time that it is over");
  await page.mouse.move(box.x, box.y - 300);
  assert.equal(await value(), count(history.at(-1)));

  // Nothing was asked for a minute: nobody knows what was in between.
  world.history.splice(60, 12);
  world.history.push({ ...world.history.at(-1), time: world.now += 5 });
  const first = page.locator("figure").first().locator(".curve");
  await page.clock.runFor(5000);
  await until(page, "a gap", async () => assert.equal((await first.getAttribute("d")).split("M").length, 3));

  // Another process: counters begin anew, which is a gap and no fall.
  world.counters = { opened: 3, up: 100, down: 100 };
  world.uptime = 4;
  world.history.push({ ...world.history.at(-1), time: world.now += 5, opened: 3, bytes_up: 100, bytes_down: 100 });
  await page.clock.runFor(5000);
  const second = page.locator("figure").nth(1);
  await until(page, "the gap", async () => {
    assert.equal(await second.locator("small").innerText(), "3 since the start");
    assert.match(await second.locator("svg").getAttribute("aria-label"), /^Opened, 0\/s now, from [\d.]+\/s/);
  });
  await says(page, "#said", /adit was started anew/);
  assert.deepEqual(complaints, []);
});

test("a server's share has a bar, a mark where it is due, and its course", async t => {
  const admin = await startAdmin(t, { tunnels: 200 }), { world } = admin;
  const { page } = await visit(t, admin.origin);
  const row = rowOf(page, "servers", "192.168.100.10:8010");
  const drawn = () => row.evaluate(row => [...row.querySelectorAll(".curve")].map(path => path.getAttribute("d"))[0]);
  await row.waitFor();
  for (let step = 0; step < 4; step++) {
    world.advance(15);
    await until(page, "the next point", async () => assert.equal((await drawn()).split("L").length, step + 2));
  }
  const bar = await row.locator(".bar").evaluate(bar => [bar.firstChild.style.width, bar.lastChild.style.left]);
  const [fill, mark] = bar, { share } = world.status().upstreams[0].servers[0];
  assert.equal(parseFloat(fill), Number((100 * share).toFixed(1)));
  assert.equal(mark, "50%", "half of the weight of those that are in");
  world.tunnels = world.tunnels.filter(tunnel => tunnel.server !== "192.168.100.10:8010");
  world.now += 5;
  await until(page, "its fall", async () => assert.match(await drawn(), /L100\.0 19\.0$/));
});

for (const viewport of [desktop, phone]) {
  test(`what others have chosen is shown as text, and fits, ${viewport.width} px wide`, async t => {
    const admin = await startAdmin(t, { tunnels: 20 }), { world } = admin;
    world.open({ host: HOSTILE, path: `/${HOSTILE}`, client: HOSTILE, id: "hostile" }, 9e6);
    world.open({ host: LONG, path: `/${"long".repeat(250)}`, id: "long", bytes_up: 2 ** 60, bytes_down: 2 ** 60 }, 8e6);
    world.listeners[0].routes.push({ route: HOSTILE, upstream: HOSTILE, drains: null });
    world.listeners[1].listener = `unix:/${LONG}`;
    world.upstreams.push({ upstream: HOSTILE, balance: HOSTILE, servers: [
      { server: `${HOSTILE}${LONG}:1`, state: "in", drains: null, weight: 1, max_conns: 0, opened: 0, failures: 0 },
    ] });
    world.refusals[HOSTILE] = 9;
    world.ends[`${HOSTILE.replaceAll(" ", "_")} client`] = 7;
    world.configuration.hash = HOSTILE;
    const { page, complaints } = await visit(t, admin.origin, { viewport });
    await tunnels(page).first().waitFor();
    const fits = async () => {
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= viewport.width, `the page is ${width} px wide`);
    };
    await fits();
    assert.equal(await tunnels(page).first().locator(".mono").nth(1).innerText(), `${HOSTILE}/${HOSTILE}`);
    await page.screenshot({ path: path.join(shots, `admin-hostile-${viewport.width}.png`), fullPage: true });

    await tunnels(page).nth(1).getByRole("button").click();
    await page.locator("#ask[open]").waitFor();
    const isCut = await page.locator("#ask dd").evaluateAll(all => all.some(dd => dd.scrollWidth > dd.clientWidth));
    assert.equal(isCut, false, "what is long goes on in the next line");
    await fits();
    const box = await page.locator("#ask").boundingBox();
    assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= viewport.width && box.y + box.height <= viewport.height);
    await page.keyboard.press("Escape");
    await tunnels(page).first().getByRole("button").click();
    await page.getByRole("button", { name: "Close 1 tunnel" }).click();
    await lists(page, Math.min(viewport === phone ? 10 : 25, world.tunnels.length));
    assert.equal(await page.locator("img").count(), 0);
    assert.deepEqual(complaints, []);
  });
}

test("the policy is in force: what is put into the page from outside does not run", async t => {
  const admin = await startAdmin(t);
  const { page, complaints } = await visit(t, admin.origin);
  await tunnels(page).first().waitFor();
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    document.body.setAttribute("style", "color: red");
    document.body.setAttribute("onclick", "window.ran = true");
    document.body.click();
  });
  assert.equal(await page.evaluate(() => window.ran), undefined);
  const elsewhere = await page.evaluate(() => fetch("http://127.0.0.1:1/").then(() => "reached", () => "blocked"));
  assert.equal(elsewhere, "blocked");
  await until(page, "the violations", async () => {
    for (const directive of ["script-src-elem", "script-src-attr", "style-src-attr", "connect-src"]) {
      assert.ok(complaints.some(words => words.includes(`violates ${directive}`)), complaints.join("\n"));
    }
  });
});

const posts = admin => admin.asked.filter(({ method }) => method === "POST").map(({ path, text, headers }) => {
  assert.equal(headers["content-type"], "application/json");
  return [path, JSON.parse(text)];
});

test("a drain asks first and says how many, then posts what was asked; and back", async t => {
  const admin = await startAdmin(t, { tunnels: 100 }), { world } = admin;
  const { page, complaints } = await visit(t, admin.origin);
  await tunnels(page).first().waitFor();
  const number = of => world.matching(of).length;
  const server = { upstream: "websocket", server: "192.168.100.11:8010" };
  const route = { listener: "0.0.0.0:8020", route: "chat.example.com/wsapp/" };
  for (const [table, row, what, body] of [
    ["servers", server.server, `server ${server.server} of upstream websocket`, server],
    ["listeners", route.route, `route ${route.route} of listener ${route.listener}`, route],
    ["listeners", route.listener, `listener ${route.listener}`, { listener: route.listener }],
  ]) {
    admin.asked.length = 0;
    const before = number(body), button = page.getByRole("button", { name: `Drain ${what}`, exact: true });
    await button.click();
    const dialog = page.getByRole("dialog", { name: `Drain ${what}?` });
    await dialog.waitFor();
    assert.match(await dialog.innerText(), new RegExp(`its ${before} tunnels will be closed`));
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await dialog.waitFor({ state: "hidden" });
    assert.deepEqual(posts(admin), [["/drain", { ...body, dry_run: true }]], "nothing is done without consent");

    await button.click();
    await dialog.getByRole("button", { name: `Drain ${before} tunnels` }).click();
    const back = page.getByRole("button", { name: `Undrain ${what}`, exact: true });
    await back.waitFor();
    assert.deepEqual(posts(admin).slice(1), [["/drain", { ...body, dry_run: true }], ["/drain", body]]);
    assert.equal(await rowOf(page, table, row).locator(".state-of").first().innerText(), "drains\nby an operator");
    await says(page, "#said", new RegExp(`to be drained of ${before} tunnels`));

    await back.click();
    await page.getByRole("dialog").getByRole("button", { name: "Undrain" }).click();
    await button.waitFor();
    assert.deepEqual(posts(admin).slice(3), [["/undrain", { ...body, dry_run: true }], ["/undrain", body]]);
  }
  const bound = page.getByRole("button", { name: "Undrain server feed-2.internal:9000 of upstream feed" });
  assert.equal(await bound.isDisabled(), true, "what the file drains");
  const state = rowOf(page, "servers", "feed-2.internal:9000").locator(".state-of");
  assert.equal(await state.innerText(), "drains\nby the file");

  await page.getByRole("button", { name: "Pause" }).click();
  world.steer("drain", { upstream: "websocket", server: "192.168.100.12:8010" });
  await page.getByRole("button", { name: "Drain server 192.168.100.12:8010" }).click();
  await says(page, "#said", /192\.168\.100\.12:8010 of upstream websocket drains already/);
  assert.deepEqual(complaints, []);
});

test("what cannot be done is said", async t => {
  const admin = await startAdmin(t);
  const { page } = await visit(t, admin.origin);
  const button = page.getByRole("button", { name: "Drain listener [::]:5222" });
  await button.waitFor();
  admin.refusing = "the process stops";
  await button.click();
  await says(page, "#said", /not done: the process stops/);
  assert.equal(await page.locator("#ask[open]").count(), 0);
});

test("a tunnel is closed by itself, by the filter, or with all; each after a question", async t => {
  const admin = await startAdmin(t, { tunnels: 20 }), { world } = admin;
  const { page, complaints } = await visit(t, admin.origin);
  await lists(page, world.tunnels.length);
  const [first] = world.list({}).tunnels;
  admin.asked.length = 0;
  await tunnels(page).first().getByRole("button", { name: `Close the tunnel of ${first.client}` }).click();
  const dialog = page.getByRole("dialog", { name: "Close this tunnel?" });
  const words = await dialog.innerText();
  for (const part of [first.id, first.client, first.server]) assert.ok(words.includes(part), words);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.deepEqual(posts(admin), [["/close", { id: first.id, dry_run: true }]]);
  await tunnels(page).first().getByRole("button").click();
  await dialog.getByRole("button", { name: "Close 1 tunnel" }).click();
  await until(page, "it goes", async () => assert.equal(await page.locator("#list").getByText(first.id).count(), 0));
  assert.deepEqual(posts(admin).slice(1), [["/close", { id: first.id, dry_run: true }], ["/close", { id: first.id }]]);
  await agrees(page, () => world.status());

  await page.getByRole("button", { name: "Pause" }).click();
  const [gone] = world.list({}).tunnels;
  world.close({ id: gone.id });
  await tunnels(page).first().getByRole("button").click();
  await says(page, "#said", /that tunnel has ended already/);
  await page.getByRole("button", { name: "Go on" }).click();

  const upstream = "websocket", some = world.matching({ upstream }).length, others = world.tunnels.length - some;
  await page.getByLabel("Upstream", { exact: true }).fill(upstream);
  await page.getByRole("textbox", { name: "Bytes from" }).fill("1");
  await page.getByRole("button", { name: "Filter", exact: true }).click();
  await lists(page, some);
  admin.asked.length = 0;
  await page.getByLabel("Upstream", { exact: true }).fill("typed and not yet asked for");
  await page.getByRole("button", { name: `Close all ${some} that match…` }).click();
  const all = page.getByRole("dialog", { name: `Close ${some} tunnels?` });
  assert.match(await all.innerText(), /Upstream\s+websocket\s+Bytes from\s+1\s+They are closed at once/);
  await all.getByRole("button", { name: `Close ${some} tunnels` }).click();
  await page.getByText("No open tunnel matches the filter.").waitFor();
  const body = { upstream, min_bytes: 1 };
  assert.deepEqual(posts(admin), [["/close", { ...body, dry_run: true }], ["/close", body]]);

  await page.getByRole("button", { name: "Clear" }).click();
  await lists(page, others);
  admin.asked.length = 0;
  await page.getByRole("button", { name: `Close all ${others}…` }).click();
  const every = page.getByRole("dialog", { name: `Close all ${others} tunnels?` });
  await every.getByRole("button", { name: "Close" }).click();
  await page.getByText("No tunnel is open.").waitFor();
  assert.deepEqual(posts(admin), [["/close", { all: true, dry_run: true }], ["/close", { all: true }]]);
  assert.equal(await page.locator("#all").isDisabled(), true);
  assert.deepEqual(complaints, []);
});

test("the list is filtered by the API, ordered three ways, and grows", async t => {
  const admin = await startAdmin(t, { tunnels: 150 }), { world } = admin;
  const { page } = await visit(t, admin.origin);
  await lists(page, 25);
  const ids = () => page.locator("#list tbody th .spare").allInnerTexts();
  const last = () => admin.asked.findLast(({ path }) => path === "/tunnels").query;
  assert.deepEqual(last(), { sort: "age", limit: "25" });
  const orders = [["Quietest", "idle", "Silent"], ["Busiest", "rate", "Rate"], ["Longest", "age", "Age"]];
  for (const [label, sort, column] of orders) {
    await page.getByLabel(label).check();
    const first = world.list({ sort, limit: "25" }).tunnels.map(({ id }) => id);
    await until(page, label, async () => assert.deepEqual(await ids(), first));
    assert.equal(last().sort, sort);
    assert.equal(await page.locator("#list [aria-sort=descending]").innerText(), column);
  }
  await page.getByRole("button", { name: `Show 100 of ${world.tunnels.length}` }).click();
  await lists(page, 100);
  await page.locator("#more").click();
  await lists(page, world.tunnels.length);
  assert.equal(await page.locator("#more").isHidden(), true);

  const fill = { client: "203.0.113.0/24", listener: "0.0.0.0:8020", route: "*", upstream: "websocket",
    server: world.tunnels.find(({ route, upstream }) => route === "*" && upstream === "websocket").server,
    min_age: "1m", min_idle: "1s", min_bytes: "100" };
  for (const [name, value] of Object.entries(fill)) await page.locator(`#filter [name=${name}]`).fill(` ${value} `);
  await page.keyboard.press("Enter");
  const { matched, tunnels: some } = world.list(fill);
  assert.ok(matched > 0 && matched < 25, `${matched}`);
  await lists(page, matched);
  assert.deepEqual(last(), { ...fill, sort: "age", limit: "25" });
  assert.deepEqual(await ids(), some.map(({ id }) => id));
  assert.equal(await text(page, "#matched"), `${matched} of ${world.tunnels.length} match`);

  await page.getByLabel("Silent for").fill("soon");
  await page.keyboard.press("Enter");
  await says(page, "#wrong", /^The filter is not understood: "soon" is no duration$/);
  assert.equal(await page.locator("#away").isHidden(), true, "and the rest goes on");
  assert.equal(await page.locator("#all").isDisabled(), true, "what is not understood closes nothing");
  await page.getByRole("button", { name: "Clear" }).click();
  await lists(page, 25);
  assert.equal(await text(page, "#wrong"), "");
  const all = world.tunnels.length;

  // An answer that was asked for before the filter is none to the filter.
  const held = [];
  await page.route("**/tunnels?*", async route => {
    if (held.length < 2) await new Promise(release => held.push(release));
    await route.continue();
  });
  await until(page, "it asks", async () => assert.equal(held.length, 1));
  await page.getByRole("textbox", { name: "Upstream" }).fill("websocket");
  await page.keyboard.press("Enter");
  world.advance(5);
  held[0]();
  await until(page, "it asks anew", async () => assert.equal(held.length, 2));
  assert.equal(await page.locator("#all").innerText(), `Close all ${count(all)}…`);
  held[1]();
  await says(page, "#matched", / match$/);

  const server = rowOf(page, "servers", "192.168.100.10:8010").getByRole("button", { name: /tunnels of server/ });
  const number = world.matching({ server: "192.168.100.10:8010" }).length;
  await server.click();
  await says(page, "#matched", new RegExp(`^${number} of ${world.tunnels.length} match$`));
  assert.deepEqual(last(), { server: "192.168.100.10:8010", upstream: "websocket", sort: "age", limit: "25" });
});

for (const colorScheme of ["light", "dark"]) {
  test(`${colorScheme}: words stand out from their ground, and nothing is wider than a phone`, async t => {
    const admin = await startAdmin(t, { tunnels: 40 }), { world } = admin;
    world.tunnels[0].state = "stalled";
    world.tunnels[1].state = "leaving";
    const { page, complaints } = await visit(t, admin.origin, { viewport: phone, colorScheme });
    await tunnels(page).first().waitFor();
    await page.locator("#filters").evaluate(details => details.open = true);
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(ground, { light: "rgb(247, 244, 239)", dark: "rgb(23, 20, 18)" }[colorScheme]);
    const faint = await page.evaluate(() => {
      const channels = color => color.match(/[\d.]+/g).map(Number);
      const luminance = color => {
        const linear = value => (value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
        const [r, g, b] = channels(color).map(value => linear(value / 255));
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const groundOf = node => {
        for (; node; node = node.parentElement) {
          const color = getComputedStyle(node).backgroundColor;
          if (channels(color)[3] !== 0) return color;
        }
      };
      const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
      while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest(":disabled")) continue;
        const style = getComputedStyle(node), ink = node.matches("text") ? style.fill : style.color;
        const [a, b] = [luminance(ink), luminance(groundOf(node))];
        const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (contrast < 4.5) found.push(`${node.outerHTML}: ${contrast.toFixed(2)}`);
      }
      return found;
    });
    assert.deepEqual(faint, []);
    const wide = await page.evaluate(() => [...document.querySelectorAll("body *")]
      .filter(node => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth + 1)
      .map(node => node.outerHTML.slice(0, 200)));
    assert.deepEqual(wide, []);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= phone.width, `the page is ${width} px wide`);
    const small = await page.locator("button:visible, input:visible").evaluateAll(all => all
      .filter(node => node.type !== "radio" && !node.closest(".count") && node.getBoundingClientRect().height < 44)
      .map(node => node.outerHTML));
    assert.deepEqual(small, [], "all is large enough for a finger");
    await page.screenshot({ path: path.join(shots, `admin-390-${colorScheme}.png`), fullPage: true });
    assert.deepEqual(complaints, []);
  });
}

for (const [reducedMotion, moves] of [["reduce", false], ["no-preference", true]]) {
  test(`what asks for ${reducedMotion === "reduce" ? "stillness has it" : "nothing sees things move"}`, async t => {
    const admin = await startAdmin(t, { tunnels: 40 }), { world } = admin;
    const { page } = await visit(t, admin.origin, { reducedMotion, prepare: page => page.addInitScript(() => {
      window.moved = [];
      for (const kind of ["transitionrun", "animationstart"]) {
        document.addEventListener(kind, ({ target }) => window.moved.push(target.outerHTML), true);
      }
    }) });
    await tunnels(page).first().waitFor();
    world.tunnels = world.tunnels.filter(tunnel => tunnel.server !== "192.168.100.10:8010");
    world.upstreams[0].servers[0].state = "out";
    await agrees(page, () => world.status());
    await page.locator("#said p").first().waitFor();
    await admin.stop();
    await page.locator("#away:not([hidden])").waitFor();
    const moved = () => page.evaluate(() => window.moved.length);
    if (moves) return until(page, "it moves", async () => assert.ok(await moved() >= 3));
    assert.deepEqual(await page.evaluate(() => window.moved), []);
    const lasting = await page.evaluate(() => [...document.querySelectorAll("*")].filter(node => {
      const { transitionDuration, animationName } = getComputedStyle(node);
      return transitionDuration !== "0s" || animationName !== "none";
    }).map(node => node.outerHTML));
    assert.deepEqual(lasting, []);
  });
}

test("all of it is done by keyboard, and the place is kept", async t => {
  const admin = await startAdmin(t, { tunnels: 12 }), { world } = admin;
  const { page, complaints } = await visit(t, admin.origin);
  await tunnels(page).first().waitFor();
  const focused = () => page.evaluate(() => {
    const { outlineStyle } = getComputedStyle(document.activeElement);
    const around = document.activeElement.closest("label");
    return { name: document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent.trim() ??
      document.activeElement.name, id: document.activeElement.id,
    outline: outlineStyle !== "none" || Boolean(around && getComputedStyle(around).outlineStyle !== "none") };
  });
  const tabTo = async name => {
    for (let stops = 0; stops < 100; stops++) {
      await page.keyboard.press("Tab");
      const at = await focused();
      assert.ok(at.outline, `focus on "${at.name}" is to be seen`);
      if (at.name === name || at.id === name) return;
    }
    assert.fail(`no way to ${name}`);
  };
  await page.keyboard.press("Tab");
  assert.equal((await focused()).name, "To the tunnels");
  await tabTo("pause");
  await tabTo("charts");
  const drain = "Drain server 192.168.100.11:8010 of upstream websocket";
  await tabTo(drain);
  await page.keyboard.press("Enter");
  await page.locator("#ask[open]").waitFor();
  assert.equal((await focused()).name, "Cancel", "an Enter too many does no harm");
  await page.keyboard.press("Escape");
  await page.locator("#ask:not([open])").waitFor({ state: "attached" });
  assert.equal((await focused()).name, drain);
  await page.keyboard.press("Space");
  await page.locator("#ask[open]").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  const undrain = drain.replace("Drain", "Undrain");
  await until(page, "it drains", async () => assert.equal((await focused()).name, undrain));

  await page.locator("#sort input").first().focus();
  await page.keyboard.press("ArrowRight");
  const order = () => page.locator("#list tbody th .spare").allInnerTexts();
  const [, second] = world.list({ sort: "idle" }).tunnels;
  await until(page, "in order", async () => assert.deepEqual((await order())[1], second.id));
  await tunnels(page).nth(1).getByRole("button").focus();
  world.tunnels.find(({ id }) => id === second.id).heard = world.now;
  await until(page, "it moved away", async () => assert.notEqual((await order())[1], second.id));
  assert.equal((await focused()).name, `Close the tunnel of ${second.client}`, "the keyboard stays with the tunnel");
  world.tunnels.find(({ id }) => id === second.id).heard = world.now - 1e6;
  await until(page, "it is back", async () => assert.equal((await order())[0], second.id));
  await page.keyboard.press("Enter");
  await page.locator("#ask[open]").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await until(page, "it is closed", async () => assert.ok(!(await order()).includes(second.id)));
  assert.match((await focused()).name, /^Close the tunnel of /, "the keyboard goes on to the next");
  assert.deepEqual(complaints, []);
});

test("a page that is hidden or paused does not ask, and is up to date when it is looked at again", async t => {
  const admin = await startAdmin(t, { tunnels: 12 }), { world } = admin;
  const { page } = await visit(t, admin.origin, { prepare: stopClock });
  await tunnels(page).first().waitFor();
  const asked = () => admin.asked.filter(({ path }) => path === "/status").length;
  const settle = () => page.evaluate(() => fetch("settled").then(() => {}));   // requests of before are there by then
  await page.clock.runFor(2000);
  await until(page, "it asks every two seconds", async () => assert.ok(asked() >= 2));
  const hide = hidden => page.evaluate(hidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await settle();
  await hide(true);
  const before = asked();
  world.advance(60);
  await page.clock.runFor(600_000);
  await settle();
  assert.equal(asked(), before);
  await hide(false);
  await agrees(page, () => world.status());
  assert.ok(asked() > before);

  await settle();
  await page.getByRole("button", { name: "Pause" }).click();
  const paused = asked();
  await page.clock.runFor(60_000);
  await settle();
  assert.equal(asked(), paused);
  await page.getByLabel("Busiest").check();
  await until(page, "what is asked for by hand is done", async () => assert.ok(asked() > paused));
  world.advance(60);
  await page.getByRole("button", { name: "Go on" }).click();
  await agrees(page, () => world.status());
});

test("a server that is away is said to be, is asked less and less often, and is found again", async t => {
  const admin = await startAdmin(t, { tunnels: 12 }), { world } = admin;
  const { page } = await visit(t, admin.origin, { prepare: stopClock });
  await tunnels(page).first().waitFor();
  await admin.stop();
  const failed = [];
  page.on("requestfailed", request => failed.push(new URL(request.url()).pathname));
  const told = words => page.locator("#away span", { hasText: words }).waitFor();
  await page.clock.runFor(2000);
  for (const seconds of [4, 8, 16, 30, 30]) {
    await told(`The next try is in ${seconds} s.`);
    const before = failed.filter(path => path === "/status").length;
    await page.clock.runFor(1000 * (seconds - 1));
    await page.evaluate(() => fetch("/settled").catch(() => {}));
    assert.equal(failed.filter(path => path === "/status").length, before, `not before ${seconds} s`);
    const next = within(new Promise(resolve => page.once("requestfailed", resolve)), "the next try");
    await page.clock.runFor(1000);
    await next;
  }
  assert.match(await text(page, "#away"), /^adit does not answer\. What is below is of \d\d:\d\d:\d\d\./);
  assert.equal(await text(page, "#phase"), "away");
  assert.equal(await page.locator("#away").getAttribute("role"), "alert");
  assert.ok(await tunnels(page).count() > 0, "what was known stays in sight");

  world.advance(5);
  await admin.start();
  await page.getByRole("button", { name: "Try now" }).click();
  await page.locator("#away").waitFor({ state: "hidden" });
  await says(page, "#said", /adit answers again/);
  await agrees(page, () => world.status());

  admin.broken = 503;
  await page.clock.runFor(2000);
  await told("adit answers: 503 Service Unavailable. What is below");
  admin.broken = null;
  await page.clock.runFor(4000);
  await page.locator("#away").waitFor({ state: "hidden" });
});

test("where a token is wanted it is asked for once, kept for this tab, and sent with everything", async t => {
  const admin = await startAdmin(t, { tunnels: 12, token: "c0ffee" }), { world } = admin;
  const { page } = await visit(t, admin.origin, { prepare: stopClock });
  const dialog = page.getByRole("dialog", { name: "This adit wants its token" }), field = dialog.getByLabel("Token");
  await dialog.waitFor();
  assert.equal(await field.evaluate(node => node === document.activeElement), true);
  await field.fill("wrong");
  await page.keyboard.press("Enter");
  await dialog.getByText("It was not accepted.").waitFor();
  assert.equal(await field.inputValue(), "");
  await field.fill("two words");
  await page.keyboard.press("Enter");
  await dialog.getByText("A token is ASCII, without spaces.").waitFor();
  await field.fill(" c0ffee ");
  const asked = admin.asked.length;
  await dialog.getByRole("button", { name: "Go on" }).click();
  await agrees(page, () => world.status());
  const later = admin.asked.slice(asked);
  assert.ok(later.length >= 3);
  for (const { headers } of later) assert.equal(headers.authorization, "Bearer c0ffee");
  const kept = await page.evaluate(() => [{ ...sessionStorage }, { ...localStorage }, document.cookie]);
  assert.deepEqual(kept, [{ token: "c0ffee" }, {}, ""]);

  await page.reload();
  await agrees(page, () => world.status());
  assert.equal(await dialog.count(), 0);
  await tunnels(page).first().getByRole("button").click();
  const before = world.tunnels.length;
  await page.getByRole("dialog").getByRole("button", { name: "Close 1 tunnel" }).click();
  await lists(page, before - 1);
  const closing = admin.asked.filter(({ method }) => method === "POST").map(({ headers }) => headers.authorization);
  assert.deepEqual(closing, ["Bearer c0ffee", "Bearer c0ffee"]);

  admin.token = "changed";
  await says(page, "#login-why", /^It was not accepted\.$/);
  await page.keyboard.press("Escape");
  await page.getByText("adit shows nothing without its token.").waitFor();
  const quiet = admin.asked.length;
  await page.clock.runFor(600_000);
  await page.evaluate(() => fetch("/settled"));
  assert.equal(admin.asked.length, quiet + 1, "it does not ask on without one");
  await page.getByRole("button", { name: "Enter the token" }).click();
  await field.fill("changed");
  await page.keyboard.press("Enter");
  await agrees(page, () => world.status());
  assert.equal(await page.locator("#away").isHidden(), true);
});
