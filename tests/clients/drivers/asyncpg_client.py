"""asyncpg: its own binary protocol implementation, with its statement cache on."""

import asyncio
import datetime
import decimal
import io
import ipaddress
import os
import uuid

import asyncpg

from check import CONNECTIONS, Checks, equal

checks = Checks()


class connect:
    """`async with connect() as conn`, closed at the end."""

    def __init__(self, **options):
        self.options = {"timeout": 20, **options}

    async def __aenter__(self):
        self.conn = await asyncpg.connect(**self.options)
        return self.conn

    async def __aexit__(self, *_):
        await self.conn.close(timeout=20)


async def at_once(function):
    await asyncio.gather(*(function(number) for number in range(CONNECTIONS)))


async def create(conn, table, columns):
    await conn.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} ({columns})")


@checks
async def connect_with_scram():
    async with connect() as conn:
        equal(await conn.fetchval("SELECT 1"), 1)
        equal(await conn.fetchval("SELECT current_user::text"), os.environ["PGUSER"])
        assert conn.get_server_version().major >= 13


@checks
async def wrong_password_is_refused():
    try:
        await asyncpg.connect(password="wrong", timeout=20)
    except asyncpg.InvalidPasswordError as error:
        equal(error.sqlstate, "28P01")
    else:
        raise AssertionError("logged in with a wrong password")


@checks
async def simple_and_parametrised_queries():
    async with connect() as conn:
        equal(await conn.execute("SELECT 1; SELECT 2"), "SELECT 1")
        equal(await conn.fetchval("SELECT $1::int + $2::int", 20, 22), 42)
        equal(await conn.fetchval("SELECT name FROM matrix_items WHERE id = $1", 7), "item 7")
        equal(len(await conn.fetch("SELECT * FROM matrix_items WHERE id <= $1", 500)), 500)


@checks
async def common_types():
    values = [
        ("bool", True), ("int2", -32768), ("int4", 2147483647), ("int8", -2**63), ("float8", 2.5e300),
        ("numeric", decimal.Decimal("12345678901234567890.123456789")), ("text", "Grüße, 世界 🐘"), ("bytea", bytes(range(256))),
        ("date", datetime.date(2024, 2, 29)), ("timestamp", datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)),
        ("timestamptz", datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)), ("interval", datetime.timedelta(days=3, seconds=7)),
        ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("inet", ipaddress.ip_address("192.168.0.1")),
        ("int4[]", [1, None, 3]), ("text[]", ["a", 'quote "', "comma, {brace}"]), ("jsonb", '{"a": [1, 2, {"b": null}]}'),
    ]
    async with connect() as conn:
        for name, value in values:
            equal((name, await conn.fetchval(f"SELECT $1::{name}", value)), (name, value))


@checks
async def composite_and_enum_types_are_looked_up():
    async with connect() as conn:
        await conn.execute("DROP TYPE IF EXISTS asyncpg_pair; DROP TYPE IF EXISTS asyncpg_mood; "
                           "CREATE TYPE asyncpg_mood AS ENUM ('sad', 'glad'); CREATE TYPE asyncpg_pair AS (a int, mood asyncpg_mood)")
        equal(tuple(await conn.fetchval("SELECT (1, 'glad')::asyncpg_pair")), (1, "glad"))
        equal(await conn.fetchval("SELECT $1::asyncpg_mood", "sad"), "sad")


@checks
async def nulls():
    async with connect() as conn:
        equal(tuple(await conn.fetchrow("SELECT $1::int, $2::text, NULL, ''", None, None)), (None, None, None, ""))


@checks
async def transactions_and_savepoints():
    async with connect() as conn:
        await create(conn, "asyncpg_tx", "id int PRIMARY KEY")
        async with conn.transaction():
            await conn.execute("INSERT INTO asyncpg_tx VALUES (1)")
            try:
                async with conn.transaction():
                    await conn.execute("INSERT INTO asyncpg_tx VALUES ($1)", 1)
            except asyncpg.UniqueViolationError:
                pass
            await conn.execute("INSERT INTO asyncpg_tx VALUES ($1)", 2)
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO asyncpg_tx VALUES (3)")
                raise RuntimeError
        except RuntimeError:
            pass
        equal(await conn.fetchval("SELECT array_agg(id ORDER BY id) FROM asyncpg_tx"), [1, 2])


@checks
async def read_only_and_serializable_transactions():
    async with connect() as conn:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            equal(await conn.fetchval("SELECT count(*) FROM matrix_items"), 1000)
            equal(await conn.fetchval("SHOW transaction_read_only"), "on")
        async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
            equal(await conn.fetchval("SELECT count(*) FROM matrix_items"), 1000)
        async with conn.transaction(isolation="serializable"):
            equal(await conn.fetchval("SHOW transaction_isolation"), "serializable")


@checks
async def error_inside_a_transaction_then_rollback():
    async with connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        for text, error in (("SELECT 1/0", asyncpg.DivisionByZeroError), ("SELECT 1", asyncpg.InFailedSQLTransactionError)):
            try:
                await conn.fetchval(text)
                raise AssertionError("no error")
            except error:
                pass
        await transaction.rollback()
        equal(await conn.fetchval("SELECT 2"), 2)


@checks
async def errors_carry_their_sqlstate_and_keep_the_connection():
    async with connect() as conn:
        await create(conn, "asyncpg_errors", "id int PRIMARY KEY")
        await conn.execute("INSERT INTO asyncpg_errors VALUES (1)")
        for text, arguments, state in (("INSERT INTO asyncpg_errors VALUES ($1)", (1,), "23505"), ("SELECT * FROM missing", (), "42P01"),
                                       ("SELECT 1/$1::int", (0,), "22012"), ("SELEC 1", (), "42601")):
            for run in (conn.fetch, conn.execute):
                try:
                    await run(text, *arguments)
                    raise AssertionError(f"no error: {text}")
                except asyncpg.PostgresError as error:
                    equal((text, error.sqlstate), (text, state))
                equal(await conn.fetchval("SELECT $1::int", 5), 5)


@checks
async def cached_statements_across_transactions():
    async def one(number):
        async with connect() as conn:
            for turn in range(30):
                for shift in range(3):
                    kind = (turn + number + shift) % 3
                    if kind == 0:
                        equal(await conn.fetchval("SELECT $1::int + 1", turn), turn + 1)
                    elif kind == 1:
                        equal(await conn.fetchval("SELECT name FROM matrix_items WHERE id = $1", turn + 1), f"item {turn + 1}")
                    else:
                        async with conn.transaction():
                            equal(await conn.fetchval("SELECT $1::text || $2", str(number), "!"), f"{number}!")
    await at_once(one)


@checks
async def explicitly_prepared_statements():
    async def one(number):
        async with connect() as conn:
            add = await conn.prepare("SELECT $1::int + $2::int")
            name = await conn.prepare("SELECT name FROM matrix_items WHERE id = $1", name="by_id")
            equal([kind.name for kind in add.get_parameters()], ["int4", "int4"])
            for turn in range(20):
                equal(await add.fetchval(turn, number), turn + number)
                equal(await name.fetchval(turn + 1), f"item {turn + 1}")
    await at_once(one)


@checks
async def more_statements_than_the_cache_holds():
    async with connect(statement_cache_size=10) as conn:
        for _ in range(2):
            for number in range(50):
                equal(await conn.fetchval(f"SELECT $1::int + {number}", 1), 1 + number)


@checks
async def no_statement_cache():
    async with connect(statement_cache_size=0) as conn:
        for number in range(20):
            equal(await conn.fetchval("SELECT $1::int", number), number)


@checks
async def executemany():
    async def one(number):
        async with connect() as conn:
            table = f"asyncpg_many_{number}"
            await create(conn, table, "id int PRIMARY KEY, name text")
            await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(n, f"n{n}") for n in range(3000)])
            equal(await conn.fetchval(f"SELECT count(*) FROM {table}"), 3000)
            try:
                await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(n, "again") for n in range(5000, 2000, -1)])
                raise AssertionError("no error")
            except asyncpg.UniqueViolationError:
                pass
            equal(await conn.fetchval(f"SELECT count(*) FROM {table}"), 3000)
    await at_once(one)


@checks
async def cursors_with_row_limits():
    async def one(_):
        async with connect() as conn, conn.transaction():
            equal([row[0] async for row in conn.cursor("SELECT id FROM matrix_items ORDER BY id", prefetch=7)], list(range(1, 1001)))
            cursor = await conn.cursor("SELECT id FROM matrix_items WHERE id > $1 ORDER BY id", 10)
            equal([row[0] for row in await cursor.fetch(3)], [11, 12, 13])
            await cursor.forward(5)
            equal((await cursor.fetchrow())[0], 19)
    await at_once(one)


@checks
async def copy_in_and_out():
    async def one(number):
        async with connect() as conn:
            table = f"asyncpg_copy_{number}"
            await create(conn, table, "id int, name text")
            equal(await conn.copy_records_to_table(table, records=[(n, None if n % 3 == 0 else f"n{n}") for n in range(20000)]), "COPY 20000")
            output = io.BytesIO()
            equal(await conn.copy_from_query(f"SELECT * FROM {table} WHERE id < $1 ORDER BY id", 10000, output=output, format="csv"), "COPY 10000")
            equal(output.getvalue().splitlines()[:2], [b"0,", b"1,n1"])
            equal(await conn.copy_to_table(table, source=io.BytesIO(output.getvalue()), format="csv"), "COPY 10000")
            equal(await conn.fetchval(f"SELECT count(*) FROM {table}"), 30000)
    await at_once(one)


@checks
async def copy_that_fails_keeps_the_connection():
    async with connect() as conn:
        await create(conn, "asyncpg_copy_fails", "id int PRIMARY KEY")
        try:
            await conn.copy_records_to_table("asyncpg_copy_fails", records=[(n % 10,) for n in range(20000)])
            raise AssertionError("no error")
        except asyncpg.UniqueViolationError:
            pass
        equal(await conn.fetchval("SELECT count(*) FROM asyncpg_copy_fails"), 0)


@checks
async def listen_and_notify():
    async with connect() as listener, connect() as notifier:
        heard = asyncio.Queue()
        await listener.add_listener("asyncpg_channel", lambda *arguments: heard.put_nowait(arguments[3]))
        await notifier.execute("NOTIFY asyncpg_channel, 'one'")
        equal(await asyncio.wait_for(heard.get(), 10), "one")
        equal(await listener.fetchval("SELECT 1"), 1)
        await notifier.execute("SELECT pg_notify('asyncpg_channel', $1)", "two")
        equal(await asyncio.wait_for(heard.get(), 10), "two")


@checks
async def timeout_cancels_and_keeps_the_connection():
    async def one(number):
        async with connect() as conn:
            for _ in range(2):
                if number % 2:
                    equal(await conn.fetchval("SELECT 'slept' FROM pg_sleep(0.6)"), "slept")
                else:
                    try:
                        await conn.fetchval("SELECT pg_sleep(50)", timeout=0.5)
                        raise AssertionError("no timeout")
                    except asyncio.TimeoutError:
                        pass
                equal(await conn.fetchval("SELECT $1::int", number), number)
    await at_once(one)


@checks
async def cancelled_task_keeps_the_connection():
    async with connect() as conn:
        task = asyncio.ensure_future(conn.fetchval("SELECT pg_sleep(50)"))
        await asyncio.wait([task], timeout=0.5)
        task.cancel()
        await asyncio.wait([task])
        equal(await conn.fetchval("SELECT 1"), 1)


@checks
async def large_results():
    async with connect() as conn:
        rows = await conn.fetch("SELECT repeat('x', 1000) AS body FROM generate_series(1, 50000)")
        equal(sum(len(row["body"]) for row in rows), 50_000_000)
        equal(len(await conn.fetchval("SELECT repeat('y', 52428800)")), 52428800)


@checks
async def large_parameters():
    async with connect() as conn:
        body = os.urandom(5_000_000)
        await create(conn, "asyncpg_large", "body bytea")
        await conn.execute("INSERT INTO asyncpg_large VALUES ($1)", body)
        equal(await conn.fetchval("SELECT body = $1 FROM asyncpg_large", body), True)


@checks
async def reads_see_the_own_writes():
    async with connect() as conn:
        await create(conn, "asyncpg_ryw", "worker int, n int")

    async def one(number):
        async with connect() as conn:
            for turn in range(40):
                await conn.execute("INSERT INTO asyncpg_ryw VALUES ($1, $2)", number, turn)
                equal(await conn.fetchval("SELECT max(n) FROM asyncpg_ryw WHERE worker = $1", number), turn)
    await at_once(one)


@checks
async def reads_run_on_the_replica():
    async def one(_):
        async with connect() as conn:
            for number in range(1, 11):
                equal(await conn.fetchval("SELECT id FROM replica_reads WHERE id = $1", number), number)
    await at_once(one)


@checks
async def set_and_show_within_a_transaction():
    async def one(number):
        async with connect() as conn:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL work_mem = '{number + 1}MB'")
                equal(await conn.fetchval("SHOW work_mem"), f"{number + 1}MB")
            equal(await conn.fetchval("SHOW work_mem"), "4MB")
    await at_once(one)


@checks
async def startup_settings_are_the_clients_own():
    async def one(number):
        zone = ("Europe/Berlin", "Asia/Tokyo")[number % 2]
        async with connect(server_settings={"application_name": f"asyncpg {number}", "TimeZone": zone}) as conn:
            for _ in range(10):
                equal(await conn.fetchval("SHOW application_name"), f"asyncpg {number}")
                equal(await conn.fetchval("SHOW TimeZone"), zone)
            equal(conn.get_settings().TimeZone, zone)
    await at_once(one)


@checks
async def pool_with_reset():
    """asyncpg's own pool runs `SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL` at every release."""
    async with asyncpg.create_pool(min_size=1, max_size=CONNECTIONS, timeout=20) as pool:
        async def one(number):
            for turn in range(10):
                async with pool.acquire() as conn:
                    await conn.execute("SET work_mem = '9MB'")
                    equal(await conn.fetchval("SELECT $1::int", turn), turn)
                async with pool.acquire() as conn:
                    equal(await conn.fetchval("SHOW work_mem"), "4MB")
        await at_once(one)


@checks
async def many_short_connections():
    async def one(number):
        for turn in range(15):
            async with connect() as conn:
                equal(await conn.fetchval("SELECT $1::int", number * 100 + turn), number * 100 + turn)
    await at_once(one)


@checks
async def clients_that_vanish_cost_no_server():
    async def vanish(number):
        for _ in range(2):
            conn = await asyncpg.connect(timeout=20)
            if number % 2:
                await conn.execute("BEGIN; SELECT 1")
            else:
                task = asyncio.ensure_future(conn.fetchval("SELECT pg_sleep(55)"))
                await asyncio.wait([task], timeout=0.05)
            conn.terminate()
            if number % 2 == 0:
                await asyncio.wait([task])
                task.exception()
    await at_once(vanish)

    async def still_served(number):
        async with connect() as conn:
            for _ in range(5):
                equal(await conn.fetchval("SELECT $1::int", number), number)
                assert not conn.is_in_transaction()
    await at_once(still_served)


checks.run()
