// What the tests share: adit as a child process, a WebSocket server, a client, and waits with a bound. What a test
// starts ends with it; ports are the kernel's choice unless a test says why not.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { WebSocket, WebSocketServer } from "ws";

/** Longer than anything here takes on a busy machine. */
const PATIENCE_MS = 30_000;

const root = fileURLToPath(new URL("../..", import.meta.url));
const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? "target");

/** The command under test: `$ADIT`, or what `cargo build` made. */
export const adit = process.env.ADIT ?? path.join(target, "debug/adit");
if (!existsSync(adit)) throw new Error(`${adit} is not there: run "cargo build", or name a binary in $ADIT`);

/** The promise, or an error that says what did not happen in time. */
export async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The next event of an emitter, as the array of its arguments. An "error" ends the wait. */
export function next(emitter, event) {
  return within(once(emitter, event), `the event "${event}"`);
}

const undone = new WeakMap();

/** Undoes something at the end of the test: the last thing first, and all of them, also where one fails. */
export function after(t, undo) {
  if (undone.has(t)) return undone.get(t).push(undo);
  const steps = [undo];
  undone.set(t, steps);
  t.after(async () => {
    const errors = [];
    for (const step of steps.reverse()) {
      const done = Promise.resolve().then(step);
      await within(done, "the end of what the test has started").catch(error => errors.push(error));
    }
    if (errors.length) throw errors[0];
  });
}

/** A new folder that goes with the test. */
export function folder(t) {
  const name = mkdtempSync(path.join(tmpdir(), "adit-e2e-"));
  after(t, () => rm(name, { recursive: true, force: true, maxRetries: 10 }));
  return name;
}

const children = new Set();
process.on("exit", () => children.forEach(child => child.kill("SIGKILL")));

/** A program that does not outlive the test, and the lines that it has written so far. */
export class Program {
  constructor(t, command, args, options = {}) {
    this.child = spawn(command, args, { ...options, stdio: ["pipe", "pipe", "pipe"] });
    this.lines = [];
    this.exited = new Promise((resolve, reject) => {
      this.child.once("error", reject).once("close", (code, signal) => resolve(code ?? signal));
    });
    this.exited.catch(() => {}).finally(() => children.delete(this.child));
    this.readers = [];
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream }).on("line", line => {
        this.lines.push(line);
        this.readers.forEach(look => look());
      });
    }
    children.add(this.child);
    after(t, () => this.kill());
  }

  /** What `pick` makes of the first line that it makes anything of. */
  async line(what, pick) {
    const found = new Promise((resolve, reject) => {
      const look = () => {
        for (const line of this.lines) {
          const picked = pick(line);
          if (picked) return resolve(picked);
        }
      };
      this.readers.push(look);
      look();
      this.exited.then(code => reject(new Error(`it ended with ${code} before ${what}`)), reject);
    });
    try {
      return await within(found, what);
    } catch (error) {
      error.message += `; it said:\n${this.lines.join("\n")}`;
      throw error;
    }
  }

  /** Ends it by a signal; how it ended. */
  stop(signal = "SIGTERM") {
    this.child.kill(signal);
    return within(this.exited, `the end after ${signal}`);
  }

  async kill() {
    this.child.kill("SIGKILL");
    await this.exited.catch(() => {});
  }
}

/** The command with this configuration, which stands in a ./config.toml; `address` is where it listens. */
export async function startAdit(t, config) {
  const cwd = folder(t);
  writeFileSync(path.join(cwd, "config.toml"), config);
  const { RUST_LOG, ...env } = process.env;
  const program = new Program(t, adit, [], { cwd, env });
  program.address = await program.line("it listens", line => / listening on (\S+)/.exec(line)?.[1]);
  return program;
}

/** A WebSocket server of the `ws` library that plain requests reach as well; `sockets` are its open ends. */
export async function startServer(t, options = {}, onRequest = undefined) {
  const httpServer = http.createServer(onRequest);
  const server = new WebSocketServer({ server: httpServer, ...options });
  httpServer.listen(0, "127.0.0.1");
  await next(httpServer, "listening");
  server.authority = `127.0.0.1:${httpServer.address().port}`;
  after(t, () => {
    server.clients.forEach(socket => socket.terminate());
    server.close();
    httpServer.close();
    httpServer.closeAllConnections?.();
  });
  return server;
}

/** A proxy in front of a server, its access log in JSON. */
export function startInFrontOf(t, server, more = "") {
  return startAdit(t, `
[log]
access = "stdout"
format = "json"
[[listener]]
listen = "127.0.0.1:0"
upstream = "websocket"
[upstream.websocket]
servers = ["${server.authority}"]
${more}`);
}

/** The access log's next line about a tunnel's end. */
export function closedTunnel(program) {
  return program.line("a tunnel's last line in the access log", line => {
    const entry = line.startsWith("{") && JSON.parse(line);
    return entry && entry.event === "close" && entry.status === 101 && entry;
  });
}

/** A client that goes with the test. It may have events at once, so whoever waits for them asks right away. */
export function dial(t, address, { path: where = "/", protocols = [], ...options } = {}) {
  const socket = new WebSocket(`ws://${address}${where}`, protocols, options);
  after(t, () => {
    socket.on("error", () => {}); // one that never opened says so
    socket.terminate();
  });
  return socket;
}

/** Both ends of a new tunnel, open. */
export async function openTunnel(t, program, server, options) {
  const accepted = next(server, "connection");
  const client = dial(t, program.address, options);
  await next(client, "open");
  const [end, request] = await accepted;
  return { client, end, request };
}

/** The message that comes next, as it was sent: text as a string, binary as a buffer. */
export async function message(socket) {
  const [data, isBinary] = await next(socket, "message");
  return isBinary ? data : data.toString();
}
