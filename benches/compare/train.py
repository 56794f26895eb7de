"""What a profile of pglagoon is made from: all that the comparison asks of it, a moment each, and what makes no figure there.

What is never run here is taken for rare by the compiler, and made small instead of fast. So everything that a busy pooler does
has its turn: plain and TLS, short and long answers, both protocols, new connections, texts that nobody has sent before.
"""

import contextlib

from cluster import DATABASE, make_certificate
from growth import TRANSFERS, transfer
from pgbench import take_turn
from say import progress
from variants import SPLITS, fill, running, start_servers
from wire import Connection, load, prepare, query
from workloads import WORKLOADS, plans

SECONDS = 2
TEXTS = 3000
BYTES = 50_000_000


def train(stage, options):
    """Returns the status to end with: 1 if a workload failed, so that its profile would be missing."""
    options.seconds = SECONDS
    servers = start_servers(stage, options.replicas)
    fill(servers, options.scale)
    servers[0].sql("CREATE UNLOGGED TABLE sink (line text); GRANT ALL ON sink TO PUBLIC", DATABASE)
    failures = [*pgbench_turns(stage, options, servers)]
    with running(stage, options, servers, SPLITS, certificate=make_certificate(stage)) as targets:
        for target in targets:
            for tls in ("plain", "tls"):
                progress(f"training: {target.variant}, {tls}")
                send_texts(target, tls)
                for what in TRANSFERS:
                    transfer(target, what, tls, BYTES)
    for failure in failures:
        progress(f"training: {failure}")
    return 1 if failures else 0


def pgbench_turns(stage, options, servers):
    for auth in ("trust", "scram-sha-256"):
        with running(stage, options, servers, SPLITS, auth=auth) as targets:
            for plan in plans(list(WORKLOADS), None, SPLITS):
                for name in plan.workloads if plan.auth == auth else ():
                    for target in targets:
                        progress(f"training: {name}, {plan.clients} clients, {target.variant}")
                        failure = take_turn(stage, options, servers, target, name, plan.clients).failure
                        if failure:
                            yield f"{name}: {failure}"


def send_texts(target, tls):
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(Connection(target.port, tls=tls))) for _ in range(8)]
        load(connections, len(connections), SECONDS)
        for number in range(TEXTS):
            text = SHAPES[number % len(SHAPES)].format(number)
            connections[number % len(connections)].ask(query(text) if number % 3 else prepare("", text))


# As object mappers write them; each number makes another text.
SHAPES = (
    'SELECT "a{0}"."aid", "a{0}"."bid", "a{0}"."abalance" FROM "pgbench_accounts" AS "a{0}" WHERE "a{0}"."aid" IN (1, 2, 3) LIMIT 21',
    "SELECT b.bid AS b_{0}, count(*) AS n FROM pgbench_branches b LEFT OUTER JOIN pgbench_tellers t ON t.bid = b.bid "
    "WHERE b.bbalance >= 0 AND (b.filler IS NULL OR lower(b.filler) LIKE 'x%') GROUP BY b.bid HAVING count(*) > 0 ORDER BY 2 DESC",
    "WITH t{0} AS (SELECT tid, bid, row_number() OVER (PARTITION BY bid ORDER BY tid) AS r FROM pgbench_tellers WHERE tid < 50) "
    "SELECT coalesce(max(r), 0), CASE WHEN count(*) > 1 THEN 'many' ELSE 'one' END FROM t{0}",
    "SELECT EXISTS (SELECT 1 AS e{0} FROM pgbench_accounts WHERE aid BETWEEN 10 AND 20), now()::date, current_setting('TimeZone')",
    "UPDATE pgbench_tellers AS t{0} SET tbalance = tbalance + 1 WHERE tid = -1 RETURNING tid",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) SELECT 1, 1, 1, {0}, CURRENT_TIMESTAMP WHERE false",
    "SELECT 1 AS x{0} FROM pgbench_branches WHERE bid = 1 FOR UPDATE",
    "SELECT 1 /* route{0}='users/%2Fshow' */ AS c{0}",
)
