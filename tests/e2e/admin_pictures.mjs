// Takes the pictures of the admin page that are in docs/: `node admin_pictures.mjs FOLDER`. What they show is the
// mock's invented proxy during ten minutes, in which an operator lets a server drain and another one comes back.

import { mkdirSync } from "node:fs";
import path from "node:path";

import { chromium } from "playwright-core";

import { Admin, World } from "./admin_mock.mjs";

const folder = process.argv[2];
if (!folder) throw new Error("usage: node admin_pictures.mjs FOLDER");
mkdirSync(folder, { recursive: true });

const wide = { viewport: { width: 1280, height: 1400 } };
const narrow = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const pictures = {
  "page-1280": { ...wide, colorScheme: "light" },
  "page-1280-dark": { ...wide, colorScheme: "dark" },
  "page-390": { ...narrow, colorScheme: "light" },
};

/** Has the page ask until it shows the present figures. What it has said aloud is gone two steps later. */
async function look(page, world) {
  await page.clock.runFor(5000);
  const words = `${world.counters.opened.toLocaleString("en")} since the start`;
  while (await page.locator("figure small").nth(1).innerText() !== words) {
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  }
}

async function take(browser, name, options) {
  const world = new World({ tunnels: 1240, seed: 20, now: Date.parse("2026-11-25T12:00:00Z") / 1000 });
  const admin = await new Admin(world).start();
  const page = await browser.newPage({ ...options, timezoneId: "UTC" });
  await page.clock.install({ time: 1000 * world.now });
  await page.clock.pauseAt(1000 * world.now + 1000);
  await page.goto(admin.origin);
  await page.locator("#list tbody tr").first().waitFor();
  const drained = { upstream: "websocket", server: "192.168.100.11:8010" };
  for (let step = 0; step < 120; step++) {
    world.advance(5);
    if (step === 50) world.steer("drain", drained);
    if (step === 75) world.upstreams[0].servers[3].state = "in";
    await look(page, world);
  }
  await page.screenshot({ path: path.join(folder, `${name}.png`) });
  await page.close();
  await admin.stop();
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", chromiumSandbox: false, args: ["--disable-gpu"],
});
for (const [name, options] of Object.entries(pictures)) await take(browser, name, options);
await browser.close();
