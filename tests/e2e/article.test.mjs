// The example of nginx's article "NGINX as a WebSocket Proxy", with adit in nginx's place: its server on port 8010,
// the proxy on 8020, and wscat at a terminal.

import assert from "node:assert/strict";
import net from "node:net";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { WebSocketServer } from "ws";

import { Program, after, next, startAdit, within } from "./support.mjs";

const wscat = fileURLToPath(new URL("node_modules/.bin/wscat", import.meta.url));

/** The article's port where it is free. Where it is not, any other, said aloud. */
async function portOrOther(t, wanted) {
  const probe = net.createServer();
  const free = await new Promise(resolve => {
    probe.once("error", () => resolve(false)).listen(wanted, "127.0.0.1", () => resolve(true));
  });
  if (free) {
    await new Promise(resolve => probe.close(resolve));
    return wanted;
  }
  const words = `PORT ${wanted} IS TAKEN on this machine: another one stands in for it in this run`;
  console.error(words);
  t.diagnostic(words);
  return 0;
}

test("the article's example works with six lines of configuration and nothing else", async t => {
  const server = new WebSocketServer({ host: "127.0.0.1", port: await portOrOther(t, 8010) });
  after(t, () => {
    server.clients.forEach(socket => socket.terminate());
    server.close();
  });
  await next(server, "listening");
  const received = [];
  server.on("connection", socket => {
    socket.on("message", message => {
      received.push(message.toString());
      socket.send("Server received from client: " + message);
    });
  });

  const proxy = await startAdit(t, `\
[[listener]]
listen = "127.0.0.1:${await portOrOther(t, 8020)}"
upstream = "websocket"

[upstream.websocket]
servers = ["127.0.0.1:${server.address().port}"]
`);

  // wscat shows its "Connected" only at a terminal: script(1) is one.
  const command = `'${wscat}' --connect ws://${proxy.address}`;
  const terminal = new Program(t, "script", ["-qec", command, "/dev/null"], {
    env: { ...process.env, TERM: "dumb", SHELL: "/bin/sh", PATH: withNode() },
  });
  await terminal.line("wscat is connected", line => line.includes("Connected (press CTRL+C to quit)"));
  terminal.child.stdin.write("Hello\r");
  await terminal.line("Hello is back", line => line.includes("< Server received from client: Hello"));
  assert.deepEqual(received, ["Hello"]);

  terminal.child.stdin.write("\x03"); // CTRL+C
  assert.equal(await within(terminal.exited, "wscat quits"), 0);
  const last = await proxy.line("the tunnel's last line", line => / event=close .*/.exec(line)?.[0]);
  // wscat is gone before it can take the server's close frame, so its end may look like a reset.
  assert.match(last, / status=101 upstream=websocket .* outcome=(finished|reset) ended_by=client$/);
  assert.equal(await proxy.stop(), 0, proxy.lines.join("\n"));
});

/** wscat starts with "env node": the node that runs this. */
function withNode() {
  return `${path.dirname(process.execPath)}:${process.env.PATH}`;
}
