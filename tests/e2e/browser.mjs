// A real browser for the tests of pages: headless Chromium, `$CHROMIUM` or Debian's. Screenshots stay in a temporary
// folder, or in `$SCREENSHOTS`, for somebody to look at.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { chromium } from "playwright-core";

import { after, folder } from "./support.mjs";

const browser = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const desktop = { width: 1280, height: 800 };
export const phone = { width: 390, height: 844 };

export const shots = process.env.SCREENSHOTS ?? mkdtempSync(path.join(tmpdir(), "adit-e2e-screenshots-"));
mkdirSync(shots, { recursive: true });

/** A page in a browser of its own, and all that the browser has to complain of. Nothing is asked for yet. */
export async function browse(t, { viewport, ...options }) {
  assert.ok(existsSync(browser), `${browser} is not there: install Debian's chromium, or name a browser in $CHROMIUM`);
  const isPhone = viewport === phone;
  const context = await chromium.launchPersistentContext(folder(t), {
    executablePath: browser,
    chromiumSandbox: false,
    args: [
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    viewport,
    deviceScaleFactor: isPhone ? 2 : 1,
    isMobile: isPhone,
    hasTouch: isPhone,
    ...options,
  });
  after(t, () => context.close());
  const page = context.pages()[0];
  page.setDefaultTimeout(30_000);
  const complaints = [];
  page.on("console", message => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", error => complaints.push(String(error)));
  page.on("requestfailed", request => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
  page.on("response", response => response.ok() || complaints.push(`${response.url()}: ${response.status()}`));
  return { page, complaints };
}

/** The page at this address, as `browse` has it. */
export async function open(t, url, options) {
  const opened = await browse(t, options);
  await opened.page.goto(url);
  return opened;
}
