// node-postgres (`pg`): simple, parametrised and named statements, its pool, pg-cursor, pg-query-stream, notifications, cancel by timeout.
// Prints `ok NAME` or `FAIL NAME: why` per check; the environment says where to connect, see check.py.
"use strict";

const assert = require("node:assert/strict");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const QueryStream = require("pg-query-stream");

const CONNECTIONS = Number(process.env.MATRIX_CONNECTIONS || 8);
const CHECK_MS = 60_000;
const ONLY = process.argv[2] || "";
const checks = [];
const check = (name, run) => checks.push({ name, run });

async function connected(run, options = {}) {
  const client = new Client({ connectionTimeoutMillis: 20_000, ...options });
  await client.connect();
  try {
    return await run(client);
  } finally {
    await client.end();
  }
}

const atOnce = (run) => Promise.all(Array.from({ length: CONNECTIONS }, (_, number) => run(number)));
const value = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

async function create(client, table, columns) {
  await client.query(`DROP TABLE IF EXISTS ${table}; CREATE TABLE ${table} (${columns})`);
}

async function fails(promise, code) {
  const error = await promise.then(() => assert.fail(`no error, expected ${code}`), (error) => error);
  assert.equal(error.code, code, error.message);
}

check("connect with scram", () => connected(async (client) => {
  assert.equal(await value(client, "SELECT 1 AS a"), 1);
  assert.equal(await value(client, "SELECT current_user::text"), process.env.PGUSER);
}));

check("wrong password is refused", () => fails(new Client({ password: "wrong" }).connect(), "28P01"));

check("simple and parametrised queries", () => connected(async (client) => {
  const results = await client.query("SELECT 1 AS a; SELECT 2 AS b");
  assert.deepEqual(results.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
  assert.equal(await value(client, "SELECT $1::int + $2::int", [20, 22]), 42);
  assert.equal(await value(client, "SELECT name FROM matrix_items WHERE id = $1", [7]), "item 7");
  assert.deepEqual((await client.query({ text: "SELECT 1, 'b'", rowMode: "array" })).rows, [[1, "b"]]);
  assert.equal((await client.query("")).rowCount, null);
}));

check("common types", () => connected(async (client) => {
  const values = [["bool", true], ["int4", 2147483647], ["int8", "-9223372036854775808"], ["float8", 2.5e300], ["numeric", "12345678901234567890.123"],
    ["text", "Grüße, 世界 🐘"], ["bytea", Buffer.from(Array.from({ length: 256 }, (_, n) => n))], ["timestamptz", new Date("2024-02-29T12:30:15.123Z")],
    ["uuid", "12345678-1234-5678-1234-567812345678"], ["int4[]", [1, null, 3]], ["text[]", ["a", 'quote "', "comma, {brace}"]], ["jsonb", { a: [1, { b: null }] }]];
  for (const [type, sent] of values) {
    assert.deepEqual(await value(client, `SELECT $1::${type}`, [sent]), sent, type);
    if (type !== "bytea") {
      assert.deepEqual(await value(client, { text: `SELECT $1::${type} AS v`, values: [sent], name: `type ${type}` }), sent, type);
    }
  }
  assert.deepEqual((await client.query("SELECT $1::int AS a, $2::text AS b, NULL AS c, '' AS d", [null, null])).rows, [{ a: null, b: null, c: null, d: "" }]);
}));

check("transactions and savepoints", () => connected(async (client) => {
  await create(client, "node_tx", "id int PRIMARY KEY");
  await client.query("BEGIN");
  await client.query("INSERT INTO node_tx VALUES ($1)", [1]);
  await client.query("SAVEPOINT s");
  await fails(client.query("INSERT INTO node_tx VALUES ($1)", [1]), "23505");
  await fails(client.query("SELECT 1"), "25P02");
  await client.query("ROLLBACK TO s");
  await client.query("INSERT INTO node_tx VALUES ($1)", [2]);
  await client.query("COMMIT");
  await client.query("BEGIN");
  await client.query("DELETE FROM node_tx");
  await client.query("ROLLBACK");
  assert.deepEqual(await value(client, "SELECT array_agg(id ORDER BY id) FROM node_tx"), [1, 2]);
}));

check("errors carry their sqlstate and keep the connection", () => connected(async (client) => {
  await create(client, "node_errors", "id int PRIMARY KEY");
  await client.query("INSERT INTO node_errors VALUES (1)");
  for (const [text, values, code] of [["INSERT INTO node_errors VALUES ($1)", [1], "23505"], ["SELECT * FROM missing", undefined, "42P01"],
    ["SELECT * FROM missing WHERE id = $1", [1], "42P01"], ["SELECT 1/$1::int", [0], "22012"], ["SELECT 1/0", undefined, "22012"], ["SELEC 1", [], "42601"]]) {
    await fails(client.query(text, values), code);
    await fails(client.query({ text, values, name: `error ${text}` }), code);
    assert.equal(await value(client, "SELECT $1::int", [5]), 5);
  }
}));

check("named statements across transactions", () => atOnce((number) => connected(async (client) => {
  for (let turn = 0; turn < 30; turn++) {
    for (let shift = 0; shift < 3; shift++) {
      const kind = (turn + number + shift) % 3;
      // The names mean something else for every second client.
      if (kind === 0) assert.equal(await value(client, { name: number % 2 ? "a" : "b", text: "SELECT $1::int + 1", values: [turn] }), turn + 1);
      else if (kind === 1) assert.equal(await value(client, { name: number % 2 ? "b" : "a", text: "SELECT name FROM matrix_items WHERE id = $1", values: [turn + 1] }), `item ${turn + 1}`);
      else {
        await client.query("BEGIN");
        assert.equal(await value(client, { name: "c", text: "SELECT $1::text || $2", values: [String(number), "!"] }), `${number}!`);
        await client.query("COMMIT");
      }
    }
  }
})));

check("named statement survives its own errors", () => connected(async (client) => {
  const divide = (divisor) => ({ name: "divide", text: "SELECT 10 / $1::int", values: [divisor] });
  for (let turn = 0; turn < 5; turn++) {
    assert.equal(await value(client, divide(2)), 5);
    await fails(client.query(divide(0)), "22012");
  }
}));

check("queued queries on one connection", () => connected(async (client) => {
  const results = await Promise.all(Array.from({ length: 100 }, (_, n) => value(client, "SELECT $1::int * 2", [n])));
  assert.deepEqual(results, Array.from({ length: 100 }, (_, n) => n * 2));
}));

check("pg-cursor reads in pieces", () => atOnce(() => connected(async (client) => {
  const cursor = client.query(new Cursor("SELECT id FROM matrix_items WHERE id > $1 ORDER BY id", [10]));
  assert.deepEqual((await cursor.read(3)).map((row) => row.id), [11, 12, 13]);
  assert.deepEqual((await cursor.read(1000)).length, 987);
  assert.deepEqual(await cursor.read(10), []);
  const early = client.query(new Cursor("SELECT id FROM matrix_items ORDER BY id"));
  assert.equal((await early.read(5)).length, 5);
  await early.close();
  assert.equal(await value(client, "SELECT 1"), 1);
})));

check("pg-query-stream", () => atOnce(() => connected(async (client) => {
  let sum = 0;
  for await (const row of client.query(new QueryStream("SELECT id FROM matrix_items", [], { batchSize: 7 }))) sum += row.id;
  assert.equal(sum, 500500);
  for await (const row of client.query(new QueryStream("SELECT id FROM matrix_items", [], { batchSize: 7 }))) {
    if (row.id) break;
  }
  assert.equal(await value(client, "SELECT 1"), 1);
})));

check("cursor in a transaction between other statements", () => connected(async (client) => {
  await client.query("BEGIN");
  await client.query("DECLARE c CURSOR FOR SELECT id FROM matrix_items ORDER BY id");
  assert.equal((await client.query("FETCH 3 FROM c")).rows.length, 3);
  assert.equal(await value(client, "SELECT $1::int", [4]), 4);
  assert.equal((await client.query("FETCH 1 FROM c")).rows[0].id, 4);
  await client.query("COMMIT");
}));

check("listen and notify", () => connected((listener) => connected(async (notifier) => {
  const heard = [];
  const two = new Promise((resolve) => listener.on("notification", (message) => heard.push(message.payload) === 2 && resolve()));
  await listener.query("LISTEN node_channel");
  await notifier.query("NOTIFY node_channel, 'one'");
  await notifier.query("SELECT pg_notify($1, $2)", ["node_channel", "two"]);
  await within(10_000, two);
  assert.deepEqual(heard, ["one", "two"]);
})));

check("pg_cancel_backend of the own query by statement_timeout", () => connected(async (client) => {
  await client.query("BEGIN; SET LOCAL statement_timeout = 200");
  await fails(client.query("SELECT pg_sleep($1)", [30]), "57014");
  await client.query("ROLLBACK");
  assert.equal(await value(client, "SHOW statement_timeout"), "0");
}));

check("cancel request", () => connected(async (client) => {
  let done = false;
  const slept = client.query("SELECT pg_sleep(50)").then(() => null, (error) => error).finally(() => { done = true; });
  while (!done) {
    await Promise.race([slept, pause(500)]);
    if (!done) {
      const messenger = new Client();
      messenger.cancel(client, client._getActiveQuery ? client._getActiveQuery() : client.activeQuery);
      await Promise.race([slept, pause(1500)]);
    }
  }
  assert.equal((await slept).code, "57014");
  assert.equal(await value(client, "SELECT 1"), 1);
}));

check("large results", () => connected(async (client) => {
  const { rows } = await client.query("SELECT repeat('x', 1000) AS body FROM generate_series(1, 50000)");
  assert.equal(rows.reduce((sum, row) => sum + row.body.length, 0), 50_000_000);
  assert.equal((await value(client, "SELECT repeat('y', 52428800)")).length, 52428800);
}));

check("large parameters", () => connected(async (client) => {
  const body = Buffer.alloc(5_000_000, 7);
  await create(client, "node_large", "body bytea");
  await client.query("INSERT INTO node_large VALUES ($1)", [body]);
  assert.equal(await value(client, "SELECT body = $1 FROM node_large", [body]), true);
  assert.equal(await value(client, "SELECT length($1::text)", ["p".repeat(5_000_000)]), 5_000_000);
}));

check("reads see the own writes", async () => {
  await connected((client) => create(client, "node_ryw", "worker int, n int"));
  await atOnce((number) => connected(async (client) => {
    for (let turn = 0; turn < 40; turn++) {
      await client.query("INSERT INTO node_ryw VALUES ($1, $2)", [number, turn]);
      assert.equal(await value(client, "SELECT max(n) FROM node_ryw WHERE worker = $1", [number]), turn);
    }
  }));
});

check("reads run on the replica", () => atOnce(() => connected(async (client) => {
  for (let id = 1; id <= 10; id++) {
    assert.equal(await value(client, "SELECT id FROM replica_reads WHERE id = $1", [id]), id);
    assert.equal(await value(client, { name: "read", text: "SELECT id FROM replica_reads WHERE id = $1", values: [id] }), id);
  }
})));

check("set and show within a transaction", () => atOnce((number) => connected(async (client) => {
  await client.query("BEGIN");
  await client.query(`SET LOCAL work_mem = '${number + 1}MB'`);
  assert.equal(await value(client, "SHOW work_mem"), `${number + 1}MB`);
  await client.query("ROLLBACK");
  assert.equal(await value(client, "SHOW work_mem"), "4MB");
})));

check("startup settings are the client's own", () => atOnce((number) => connected(async (client) => {
  for (let turn = 0; turn < 10; turn++) {
    assert.equal(await value(client, "SHOW application_name"), `node ${number}`);
    assert.equal(await value(client, "SHOW TimeZone"), number % 2 ? "Asia/Tokyo" : "Europe/Berlin");
    assert.equal(await value(client, "SHOW statement_timeout"), `${number + 10}s`);
  }
}, { application_name: `node ${number}`, options: `-c TimeZone=${number % 2 ? "Asia/Tokyo" : "Europe/Berlin"}`, statement_timeout: (number + 10) * 1000 })));

check("the driver's own pool", async () => {
  const pool = new Pool({ max: CONNECTIONS, connectionTimeoutMillis: 20_000 });
  const found = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.query("SELECT $1::int AS n", [n]).then((result) => result.rows[0].n)));
  assert.deepEqual(found, Array.from({ length: 200 }, (_, n) => n));
  await pool.end();
});

check("many short connections", () => atOnce(async (number) => {
  for (let turn = 0; turn < 15; turn++) await connected(async (client) => assert.equal(await value(client, "SELECT $1::int", [number]), number));
}));

check("clients that vanish cost no server", async () => {
  await atOnce(async (number) => {
    const client = new Client();
    client.on("error", () => {});
    await client.connect();
    client.query(number % 2 ? "SELECT pg_sleep(55)" : "SELECT repeat('x', 1000) FROM generate_series(1, 100000)").catch(() => {});
    await pause(50);
    client.connection.stream.destroy();
  });
  await atOnce((number) => connected(async (client) => {
    for (let turn = 0; turn < 5; turn++) assert.equal(await value(client, "SELECT $1::int", [number]), number);
  }));
});

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`no end within ${ms / 1000} s`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

(async () => {
  let failed = 0;
  for (const { name, run } of checks.filter(({ name }) => name.replaceAll(" ", "_").includes(ONLY))) {
    try {
      await within(CHECK_MS, run());
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${String(error.message).replace(/\s+/g, " ").slice(0, 300)}`);
      console.error(error.stack);
    }
  }
  process.exit(failed ? 1 : 0);
})();
