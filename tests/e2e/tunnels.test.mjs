// WebSockets of the `ws` library at both ends of adit: what one end says, the other end hears.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import { test } from "node:test";

import { closedTunnel, dial, message, next, openTunnel, startInFrontOf, startServer, within } from "./support.mjs";

const TUNNELS = 200;
const LARGE_BYTES = 8 << 20;

/** A server and a proxy in front of it, and both ends of a tunnel through it. */
async function tunnel(t, { server: serverOptions, client: clientOptions } = {}) {
  const server = await startServer(t, serverOptions);
  const proxy = await startInFrontOf(t, server);
  return { server, proxy, ...(await openTunnel(t, proxy, server, clientOptions)) };
}

function digest(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** An answer to a plain request, with its body as text. */
async function ask(address, options, body) {
  const [host, port] = address.split(":");
  const request = http.request({ host, port, agent: false, ...options });
  request.end(body);
  const [response] = await next(request, "response");
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += chunk;
  return { status: response.statusCode, headers: response.headers, text };
}

test("text arrives as text and bytes as bytes, both ways", async t => {
  const { client, end } = await tunnel(t);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  for (const [from, to] of [[client, end], [end, client]]) {
    for (const said of ["Hello", "Grüße, 你好 👋", "", bytes, Buffer.alloc(0)]) {
      const heard = message(to);
      from.send(said);
      assert.deepEqual(await heard, said);
    }
  }
});

test("messages keep their order when many are on their way in both directions", async t => {
  const { client, end } = await tunnel(t);
  const count = 5000;
  const all = socket => within(new Promise(resolve => {
    const heard = [];
    socket.on("message", data => heard.push(Number(data)) === count && resolve(heard));
  }), `${count} messages`);
  const heard = Promise.all([all(client), all(end)]);
  for (let number = 0; number < count; number++) {
    client.send(String(number));
    end.send(String(number));
  }
  const expected = Array.from({ length: count }, (_, number) => number);
  assert.deepEqual(await heard, [expected, expected]);
});

test("a message in fragments arrives whole, and a ping between them is answered at once", async t => {
  const { client, end } = await tunnel(t);
  const order = [];
  client.on("pong", data => order.push(`pong ${data}`));
  client.on("message", data => order.push(`echo ${data}`));
  end.on("message", data => end.send(data));
  const echoed = next(client, "message");
  client.send("one, ", { fin: false });
  client.ping("between");
  await next(client, "pong");
  client.send("two, ", { fin: false });
  client.send("three", { fin: true });
  await echoed;
  assert.deepEqual(order, ["pong between", "echo one, two, three"]);
});

test("pings are answered by the other end, with what they carry", async t => {
  const { client, end } = await tunnel(t);
  for (const [from, to] of [[client, end], [end, client]]) {
    const [asked, answered] = [next(to, "ping"), next(from, "pong")];
    from.ping("are you there?");
    assert.equal((await asked)[0].toString(), "are you there?");
    assert.equal((await answered)[0].toString(), "are you there?");
  }
});

test("permessage-deflate is negotiated end to end, and what was deflated passes as it is", async t => {
  const { client, end, proxy, request } = await tunnel(t, {
    server: { perMessageDeflate: { threshold: 0, clientMaxWindowBits: 12, serverNoContextTakeover: true } },
    client: { perMessageDeflate: { threshold: 0, clientMaxWindowBits: true } },
  });
  assert.match(request.headers["sec-websocket-extensions"], /^permessage-deflate/);
  const negotiated = {
    "permessage-deflate": {
      server_no_context_takeover: true,
      client_max_window_bits: 12,
    },
  };
  for (const side of [client, end]) {
    assert.match(side.extensions, /^permessage-deflate/);
    const { params } = side._extensions["permessage-deflate"];
    assert.deepEqual({ "permessage-deflate": { ...params } }, negotiated);
  }

  const text = "adit ".repeat(200_000);
  end.on("message", data => end.send(data.toString()));
  const heard = message(client);
  client.send(text);
  assert.equal(await heard, text);

  const closed = next(client, "close");
  client.close();
  await closed;
  const { bytes_up: up, bytes_down: down } = await closedTunnel(proxy);
  assert.ok(up < text.length / 10 && down < text.length / 10, `${up} and ${down} bytes for ${text.length}`);
});

test("no extension is negotiated that one end does not want", async t => {
  const { client, end, request } = await tunnel(t, {
    server: { perMessageDeflate: true },
    client: { perMessageDeflate: false },
  });
  assert.equal(request.headers["sec-websocket-extensions"], undefined);
  assert.deepEqual([client.extensions, end.extensions], ["", ""]);
});

test("messages of several megabytes arrive unchanged in both directions at once", async t => {
  const { client, end } = await tunnel(t);
  const [up, down] = [randomBytes(LARGE_BYTES), randomBytes(LARGE_BYTES)];
  for (let round = 0; round < 3; round++) {
    const heard = Promise.all([message(end), message(client)]);
    client.send(up);
    end.send(down);
    assert.deepEqual((await heard).map(digest), [up, down].map(digest));
  }
});

test("the subprotocol is the server's choice among the client's offers", async t => {
  const { client, end, request } = await tunnel(t, {
    server: { handleProtocols: offered => (offered.has("chat.v2") ? "chat.v2" : false) },
    client: { protocols: ["chat.v1", "chat.v2"] },
  });
  assert.equal(request.headers["sec-websocket-protocol"], "chat.v1,chat.v2");
  assert.deepEqual([client.protocol, end.protocol], ["chat.v2", "chat.v2"]);
});

test("close codes and reasons pass both ways", async t => {
  const { server, proxy, ...first } = await tunnel(t);
  const second = await openTunnel(t, proxy, server);
  for (const [from, to, code, reason] of [
    [first.client, first.end, 4001, "had enough"],
    [second.end, second.client, 1012, "service restart, back soon"],
  ]) {
    const closed = Promise.all([next(to, "close"), next(from, "close")]);
    from.close(code, reason);
    for (const [heardCode, heardReason] of await closed) {
      assert.deepEqual([heardCode, heardReason.toString()], [code, reason]);
    }
  }
});

test("an end without a close frame is an end without a close frame on the other side too", async t => {
  const { server, proxy, ...first } = await tunnel(t);
  const second = await openTunnel(t, proxy, server);
  for (const [from, to] of [[first.client, first.end], [second.end, second.client]]) {
    const closed = next(to, "close");
    from.terminate();
    assert.equal((await closed)[0], 1006);
  }
});

test("what a server says instead of a tunnel reaches the client as it is", async t => {
  const server = await startServer(t, {
    verifyClient: (_, answer) => answer(false, 401, "say who you are", { "WWW-Authenticate": "Bearer" }),
  });
  const proxy = await startInFrontOf(t, server);
  const [, response] = await next(dial(t, proxy.address), "unexpected-response");
  assert.deepEqual([response.statusCode, response.headers["www-authenticate"]], [401, "Bearer"]);
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += chunk;
  assert.equal(text, "say who you are");
});

test("the server sees what the client asked for, and who it was", async t => {
  const { client, request, proxy } = await tunnel(t, {
    client: {
      path: "/chat/%7Ea?room=1&token=t",
      origin: "https://example.com",
      headers: { Cookie: "session=s", Authorization: "Bearer b", "X-Forwarded-For": "203.0.113.9" },
    },
  });
  const { headers } = request;
  assert.equal(request.url, "/chat/%7Ea?room=1&token=t");
  assert.equal(headers.host, proxy.address);
  assert.equal(headers.origin, "https://example.com");
  assert.equal(headers.cookie, "session=s");
  assert.equal(headers.authorization, "Bearer b");
  assert.equal(headers["x-forwarded-for"], "127.0.0.1");
  assert.equal(headers["x-real-ip"], "127.0.0.1");
  assert.equal(headers["x-forwarded-proto"], "http");
  assert.equal(client.readyState, client.OPEN);
});

test(`${TUNNELS} tunnels at once each carry their own messages, and the end of some is not felt by the rest`, async t => {
  const server = await startServer(t);
  server.on("connection", (socket, request) => {
    socket.on("message", data => socket.send(`${request.url} heard ${data}`));
  });
  const proxy = await startInFrontOf(t, server);
  const clients = Array.from({ length: TUNNELS }, (_, index) => dial(t, proxy.address, { path: `/${index}` }));
  await Promise.all(clients.map(client => next(client, "open")));
  assert.equal(server.clients.size, TUNNELS);

  const echoes = index => {
    const heard = message(clients[index]);
    clients[index].send(`number ${index}`);
    return heard.then(text => assert.equal(text, `/${index} heard number ${index}`));
  };
  await Promise.all(clients.map((_, index) => echoes(index)));
  await Promise.all(clients.map(async (client, index) => {
    if (index % 2 === 0) return;
    const closed = next(client, "close");
    index % 4 === 1 ? client.terminate() : client.close();
    await closed;
  }));
  await Promise.all(clients.map((_, index) => index % 2 === 0 && echoes(index)));
});

test("plain requests go to the same server beside an open tunnel", async t => {
  const server = await startServer(t, {}, async (request, response) => {
    let text = "";
    for await (const chunk of request.setEncoding("utf8")) text += chunk;
    response.setHeader("X-Asked", `${request.method} ${request.url}`);
    response.write("you said: "); // without a length: chunked
    response.end(text || "nothing");
  });
  const proxy = await startInFrontOf(t, server);
  const { client, end } = await openTunnel(t, proxy, server);

  const got = await ask(proxy.address, { path: "/page?a=b" });
  assert.deepEqual([got.status, got.headers["x-asked"], got.text], [200, "GET /page?a=b", "you said: nothing"]);
  const posted = await ask(proxy.address, { method: "POST", path: "/form" }, "x".repeat(300_000));
  assert.deepEqual([posted.headers["x-asked"], posted.text.length], ["POST /form", 300_010]);

  const heard = message(end);
  client.send("still here");
  assert.equal(await heard, "still here");
});

test("when adit is asked to stop, open tunnels go on to their own end and new clients are not let in", async t => {
  const { client, end, proxy } = await tunnel(t);
  proxy.child.kill("SIGTERM");
  await proxy.line("it drains", line => line.includes("draining 1 sessions"));
  const [error] = await next(dial(t, proxy.address), "error");
  assert.equal(error.code, "ECONNREFUSED");

  const heard = message(end);
  client.send("one last thing");
  assert.equal(await heard, "one last thing");
  client.close();
  assert.equal(await within(proxy.exited, "adit's end"), 0);
});
