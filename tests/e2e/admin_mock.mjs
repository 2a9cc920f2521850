// An admin listener by its contract, with a busy proxy that is invented: what the page is tested against where adit
// itself could not be brought to it at will (attacks, absence, a token, hundreds of tunnels), and what its pictures in
// docs/ are taken of. Started as a program it serves the page at an address that it prints, to work on it by hand.
//
// It does not prove what adit answers; admin.test.mjs has the page before the built command.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import { fileURLToPath } from "node:url";

const pageFile = fileURLToPath(new URL("../../src/admin/page.html", import.meta.url));
const PERIOD_S = 5, SAMPLES_MAX = 180;

/** The page and the policy that goes with it: the hashes of the one style and the one script that it may have. */
export function readPage() {
  const html = readFileSync(pageFile, "utf8");
  const hash = name => {
    const all = [...html.matchAll(new RegExp(`<${name}>([^]*?)</${name}>`, "g"))];
    if (all.length !== 1) throw new Error(`the page has ${all.length} elements <${name}>, and is to have one`);
    return `'sha256-${createHash("sha256").update(all[0][1]).digest("base64")}'`;
  };
  const policy = `default-src 'none'; connect-src 'self'; img-src data:; style-src ${hash("style")}; ` +
    `script-src ${hash("script")}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
  return { html, policy };
}

/** Numbers from a seed (mulberry32): the same figures in each run. */
function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Wrong extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const server = (address, more = {}) => ({
  server: address, state: "in", drains: null, backup: false, weight: 1, max_conns: 0, opened: 0, failures: 0, ...more,
});
const route = (name, upstream) => ({ route: name, upstream, drains: null });

/** A busy proxy, as far as an admin listener can tell. Its clock stands still unless `advance` moves it. */
export class World {
  constructor({ seed = 5, tunnels = 60, now = Math.floor(Date.now() / 1000) } = {}) {
    this.random = dice(seed);
    this.uptime = 3 * 86400 + 4 * 3600 + 1260;
    this.phase = "serving";
    this.wanted = tunnels;
    this.refusals = { "no route for this host and path": 214, "this client network is not let in": 31 };
    this.ends = { "finished client": 48_211, "finished server": 3_318, "reset client": 1_904, "stalled adit": 12 };
    this.counters = { opened: 55_120, up: 41_800_000_000, down: 388_200_000_000 };
    this.configuration = { hash: "3f2a9c1b77d04e5af6b1c8d9e0f1a2b3c4d5e6f7", age: 5_400, reloads: 4, in_use: 1 };
    this.listeners = [
      { listener: "0.0.0.0:8020", protocol: "http", drains: null, routes: [
        route("chat.example.com/wsapp/", "websocket"), route("*.example.com/feed", "feed"), route("*", "websocket"),
      ] },
      { listener: "[::]:5222", protocol: "tcp", drains: null, routes: [route("*", "xmpp")] },
      { listener: "unix:/run/adit/local.sock", protocol: "http", drains: null, routes: [route("=/probe", "feed")] },
    ];
    this.upstreams = [
      { upstream: "websocket", balance: "least_conn", rebalance: true, rebalancing: false, servers: [
        server("192.168.100.10:8010", { weight: 2 }), server("192.168.100.11:8010"), server("192.168.100.12:8010"),
        server("192.168.100.13:8010", { state: "out", failures: 7 }),
      ] },
      { upstream: "feed", balance: "hash", rebalance: false, rebalancing: false, servers: [
        server("feed-1.internal:9000", { max_conns: 800 }),
        server("feed-2.internal:9000", { max_conns: 800, state: "drains", drains: "file" }),
      ] },
      { upstream: "xmpp", balance: "round_robin", rebalance: false, rebalancing: false, servers: [
        server("unix:/run/xmpp/a.sock"), server("unix:/run/xmpp/b.sock", { backup: true }),
      ] },
    ];
    this.tunnels = [];
    this.history = [];
    this.now = now - SAMPLES_MAX * PERIOD_S;
    this.begin = this.now;
    while (this.history.length < SAMPLES_MAX) this.advance(PERIOD_S);
  }

  pick(all) {
    return all[Math.floor(this.random() * all.length)];
  }

  /** A tunnel that begins now, or began `age` seconds ago. */
  open(more = {}, age = 0) {
    const { listener, routes } = this.random() < .8 ? this.listeners[0] : this.pick(this.listeners);
    const { route: name, upstream } = this.pick(routes);
    const { servers } = this.upstreams.find(other => other.upstream === upstream);
    const able = servers.filter(({ state, backup }) => state === "in" && !backup);
    const place = this.pick(able.flatMap(one => Array(one.weight).fill(one)));
    const tcp = listener === "[::]:5222", hex = () => Math.floor(this.random() * 2 ** 32).toString(16).padStart(8, "0");
    const host = name.startsWith("chat") ? "chat.example.com" : `${this.pick(["eu", "us", "ap"])}.example.com`;
    const paths = { "*.example.com/feed": "/feed/quotes", "=/probe": "/probe" };
    const rate = this.random() < .1 ? 60_000 * this.random() : 900 * this.random();
    const upward = .4 * this.random() ** 2;
    const tunnel = {
      id: hex() + hex() + hex() + hex(), listener, route: name, upstream, server: place.server,
      client: listener.startsWith("unix:") ? "unix:" : `203.0.113.${Math.floor(this.random() * 254) + 1}:${
        Math.floor(this.random() * 28_000) + 32_768}`,
      host: tcp ? null : host,
      path: tcp ? null : paths[name] ?? `/wsapp/room/${hex().slice(5)}`,
      state: this.random() < .02 ? "half_closed" : "open", worker: Math.floor(this.random() * 2),
      since: this.now - age, heard: this.now - Math.min(age, this.random() ** 6 * 900),
      bytes_up: rate * upward * age, bytes_down: rate * age, rate, upward, ...more,
    };
    place.opened++;
    this.counters.opened++;
    this.tunnels.push(tunnel);
    return tunnel;
  }

  /** Lets time go by: tunnels end and begin, bytes move, and the history has its samples. */
  advance(seconds) {
    this.now += seconds;
    this.uptime += seconds;
    const step = (this.now - this.begin) / PERIOD_S, wave = 1 + .12 * Math.sin(step / 34) + .012 * Math.sin(step / 5);
    this.tunnels = this.tunnels.filter(tunnel => {
      const isLeaving = tunnel.state === "leaving", end = isLeaving ? "drain adit" : "finished client";
      if (this.random() > (isLeaving ? .3 : .012)) return true;
      this.ends[end] = (this.ends[end] ?? 0) + 1;
      return false;
    });
    const missing = Math.max(0, Math.round(this.wanted * wave) - this.tunnels.length);
    for (let number = 0; number < missing; number++) {
      this.open({}, this.history.length ? 0 : this.random() ** 3 * 200_000);
    }
    for (const tunnel of this.tunnels) {
      if (this.random() < .4) continue;
      const down = tunnel.rate * seconds * (wave - .3) * 2 * this.random();
      const up = tunnel.rate * tunnel.upward * seconds * 2 * this.random();
      tunnel.bytes_up += up;
      tunnel.bytes_down += down;
      this.counters.up += up;
      this.counters.down += down;
      if (this.random() < .1) tunnel.heard = this.now;
    }
    if (this.random() < .3) this.refusals["no route for this host and path"] += 1 + Math.floor(3 * this.random());
    this.history.push({
      time: this.now, tunnels: this.tunnels.length, opened: this.counters.opened, refused: this.refused(),
      bytes_up: Math.round(this.counters.up), bytes_down: Math.round(this.counters.down),
    });
    if (this.history.length > SAMPLES_MAX) this.history.shift();
  }

  refused() {
    return Object.values(this.refusals).reduce((sum, number) => sum + number, 0);
  }

  status() {
    const isOf = of => tunnel => Object.entries(of).every(([key, value]) => tunnel[key] === value);
    const open = of => this.tunnels.filter(isOf(of)).length;
    return {
      version: "0.1.0", time: new Date(1000 * this.now).toISOString(), uptime: this.uptime, phase: this.phase,
      drain_ends: this.phase === "draining" ? 12.3 : null, configuration: this.configuration,
      workers: [0, 1].map(worker => ({ sessions: open({ worker }) + 1, tunnels: open({ worker }), accepted: 30_000 })),
      sessions: { open: this.tunnels.length + 2, limit: 10_000, accepted: 60_000, refused: this.refused() },
      tunnels: { open: this.tunnels.length, opened: this.counters.opened },
      bytes: { up: Math.round(this.counters.up), down: Math.round(this.counters.down) },
      descriptors: { used: 2 * this.tunnels.length + 43, limit: 524_288 }, buffers: { bytes: 1_572_864, pipes: 6 },
      log_lines_lost: 0, gone: 0, refusals: this.refusals,
      ends: Object.entries(this.ends).map(([key, count]) => {
        const [outcome, by] = key.split(" ");
        return { outcome, by, count };
      }),
      listeners: this.listeners.map(({ routes, ...listener }) => ({
        ...listener, tunnels: open({ listener: listener.listener }),
        routes: routes.map(one => ({ ...one, tunnels: open({ listener: listener.listener, route: one.route }) })),
      })),
      upstreams: this.upstreams.map(({ servers, ...upstream }) => {
        const all = open({ upstream: upstream.upstream });
        return { ...upstream, sessions: all, tunnels: all, servers: servers.map(one => {
          const tunnels = open({ upstream: upstream.upstream, server: one.server });
          return { ...one, sessions: tunnels, tunnels, share: all ? tunnels / all : 0 };
        }) };
      }),
    };
  }

  past() {
    const column = name => this.history.map(sample => sample[name]);
    return { period: PERIOD_S, ...Object.fromEntries(
      ["time", "tunnels", "opened", "refused", "bytes_up", "bytes_down"].map(name => [name, column(name)])) };
  }

  matching({ id, client, min_age, min_idle, min_bytes, ...same }) {
    const network = client?.replace(/(\.0)*\/\d+$/, ".");
    const [age, idle] = [min_age, min_idle].map(value => (value === undefined ? 0 : seconds(value)));
    return this.tunnels.filter(tunnel =>
      (id === undefined || tunnel.id === id) && (client === undefined || tunnel.client.startsWith(network)) &&
      this.now - tunnel.since >= age && this.now - tunnel.heard >= idle &&
      tunnel.bytes_up + tunnel.bytes_down >= Number(min_bytes ?? 0) &&
      Object.entries(same).every(([key, value]) => tunnel[key] === value));
  }

  list({ sort = "age", limit = "100", ...filter }) {
    known(filter, FILTERS);
    const by = {
      age: tunnel => this.now - tunnel.since, idle: tunnel => this.now - tunnel.heard,
      rate: tunnel => (tunnel.bytes_up + tunnel.bytes_down) / Math.max(.001, this.now - tunnel.since),
    }[sort];
    if (!by) throw new Wrong(400, `sort: there is no order "${sort}"`);
    const all = this.matching(filter).sort((a, b) => by(b) - by(a));
    const shown = all.slice(0, limit).map(({ since, heard, rate, upward, ...rest }) => ({
      ...rest, opened: new Date(1000 * since).toISOString(), age: this.now - since, idle: this.now - heard,
      bytes_up: Math.round(rest.bytes_up), bytes_down: Math.round(rest.bytes_down),
    }));
    return { matched: all.length, next: all.length > limit ? "cursor" : null, tunnels: shown };
  }

  steer(verb, { dry_run = false, upstream, server: address, listener, route: name, ...rest }) {
    known(rest, []);
    let place, what, of;
    if (listener === undefined) {
      const pool = this.upstreams.find(one => one.upstream === upstream);
      place = pool?.servers.find(one => one.server === address);
      [what, of] = [`server ${address} of upstream ${upstream}`, { upstream, server: address }];
    } else {
      place = this.listeners.find(one => one.listener === listener);
      [what, of] = [`listener ${listener}`, { listener }];
      if (name !== undefined) {
        place = place?.routes.find(one => one.route === name);
        [what, of] = [`route ${name} of ${what}`, { listener, route: name }];
      }
    }
    if (!place) throw new Wrong(404, "there is no such thing");
    if (place.drains === "file") throw new Wrong(409, "the file drains it");
    const drains = verb === "drain" ? "operator" : null, changed = place.drains !== drains, about = this.matching(of);
    if (!dry_run && changed) {
      place.drains = drains;
      if (place.state) place.state = drains ? "drains" : "in";
      about.forEach(tunnel => tunnel.state = drains ? "leaving" : "open");
    }
    return { what, changed, tunnels: about.length, dry_run };
  }

  close({ dry_run = false, all = false, ...filter }) {
    known(filter, FILTERS);
    if (!all && !Object.keys(filter).length) throw new Wrong(400, "which tunnels? An id, a filter, or all");
    const matched = this.matching(filter);
    if (!dry_run) this.tunnels = this.tunnels.filter(tunnel => !matched.includes(tunnel));
    return { matched: matched.length, dry_run, rate: 0 };
  }
}

const FILTERS = ["client", "listener", "route", "upstream", "server", "id", "min_age", "min_idle", "min_bytes"];

function known(object, names) {
  const unknown = Object.keys(object).find(name => !names.includes(name));
  if (unknown !== undefined) throw new Wrong(400, `there is no "${unknown}"`);
}

function seconds(text) {
  if (typeof text === "number" || /^\d+(\.\d+)?$/.test(text)) return Number(text);
  if (!/^(\d+[smhd])+$/.test(text)) throw new Wrong(400, `"${text}" is no duration`);
  const units = { s: 1, m: 60, h: 3600, d: 86400 };
  return [...text.matchAll(/(\d+)([smhd])/g)].reduce((sum, [, number, unit]) => sum + number * units[unit], 0);
}

/** The listener itself. `asked` has what it was asked, in order. While `broken` is a status, all is answered by that;
    while `refusing` is a text, nothing is to be done now, because of that. */
export class Admin {
  constructor(world, { token } = {}) {
    Object.assign(this, { world, token, asked: [], broken: null, refusing: null });
    this.server = http.createServer((request, response) => this.answer(request, response));
  }

  async start(port = this.port ?? 0) {
    this.server.listen(port, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
    this.origin = `http://127.0.0.1:${this.port}`;
    return this;
  }

  async stop() {
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, "close");
  }

  async answer(request, response) {
    const send = (status, type, text, more = {}) => {
      const body = Buffer.from(text);
      response.writeHead(status, { "Content-Type": type, "Content-Length": body.length, ...more });
      response.end(body);
    };
    const url = new URL(request.url, this.origin);
    let text = "";
    for await (const chunk of request.setEncoding("utf8")) text += chunk;
    const { method, headers } = request;
    this.asked.push({ method, path: url.pathname, query: Object.fromEntries(url.searchParams), text, headers });
    if (method === "GET" && url.pathname === "/") {
      const { html, policy } = readPage();
      return send(200, "text/html; charset=utf-8", html, { "Content-Security-Policy": policy });
    }
    const json = (status, value, more) => send(status, "application/json", JSON.stringify(value), more);
    if (this.broken) return send(this.broken, "text/plain", "broken");
    if (this.token && headers.authorization !== `Bearer ${this.token}`) {
      return json(401, { error: "a token is needed" }, { "WWW-Authenticate": "Bearer" });
    }
    try {
      json(200, this.value(method, url, headers, text));
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      json(error.status, { error: error.message });
    }
  }

  value(method, { pathname, searchParams }, headers, text) {
    const { world } = this;
    if (method === "GET") {
      if (pathname === "/status") return world.status();
      if (pathname === "/history") return world.past();
      if (pathname === "/tunnels") return world.list(Object.fromEntries(searchParams));
      throw new Wrong(404, "there is no such page");
    }
    if (headers["content-type"] !== "application/json") throw new Wrong(415, "Content-Type must be application/json");
    const body = JSON.parse(text);
    if (this.refusing) throw new Wrong(409, this.refusing);
    if (pathname === "/drain" || pathname === "/undrain") return world.steer(pathname.slice(1), body);
    if (pathname === "/close") return world.close(body);
    throw new Wrong(404, "there is no such page");
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const world = new World({ tunnels: 1240 });
  const { origin } = await new Admin(world, { token: process.env.TOKEN }).start();
  setInterval(() => world.advance(PERIOD_S), 1000 * PERIOD_S);
  console.log(`page      ${origin}/`);
}
