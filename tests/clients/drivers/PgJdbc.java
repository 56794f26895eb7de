// pgjdbc: server-side prepared statements from the first use, autosave, batches, fetch sizes, COPY, notifications, cancel.
// Prints `ok NAME` or `FAIL NAME: why` per check; the environment says where to connect, see check.py.

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.TimeZone;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class PgJdbc {
    static final int CONNECTIONS = Integer.parseInt(System.getenv().getOrDefault("MATRIX_CONNECTIONS", "8"));
    static final int CHECK_SECONDS = 60;

    interface Check { void run() throws Exception; }
    interface Numbered { void run(int number) throws Exception; }

    public static void main(String[] arguments) throws Exception {
        String only = arguments.length > 0 ? arguments[0] : "";
        int failed = 0;
        for (Map.Entry<String, Check> check : checks().entrySet()) {
            if (check.getKey().replace(' ', '_').contains(only) && !passes(check.getKey(), check.getValue())) failed++;
        }
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    static boolean passes(String name, Check check) {
        ExecutorService thread = Executors.newSingleThreadExecutor();
        try {
            thread.submit(() -> { check.run(); return null; }).get(CHECK_SECONDS, TimeUnit.SECONDS);
            System.out.println("ok " + name);
            return true;
        } catch (Exception | Error error) {
            Throwable cause = error.getCause() != null ? error.getCause() : error;
            System.out.println("FAIL " + name + ": " + String.valueOf(cause).replaceAll("\\s+", " "));
            cause.printStackTrace();
            return false;
        } finally {
            thread.shutdownNow();
        }
    }

    static Map<String, Check> checks() {
        Map<String, Check> all = new LinkedHashMap<>();
        all.put("connect with scram", PgJdbc::connectWithScram);
        all.put("wrong password is refused", PgJdbc::wrongPassword);
        all.put("simple and parametrised queries", PgJdbc::queries);
        all.put("preferQueryMode simple and extendedForPrepared", PgJdbc::queryModes);
        all.put("common types", PgJdbc::types);
        all.put("transactions and savepoints", PgJdbc::transactions);
        all.put("read only and serializable transactions", PgJdbc::isolation);
        all.put("error inside a transaction then rollback", PgJdbc::errorInTransaction);
        all.put("autosave always and conservative", PgJdbc::autosave);
        all.put("errors carry their sqlstate and keep the connection", PgJdbc::errors);
        all.put("prepareThreshold 1 across transactions", () -> prepared(1));
        all.put("prepareThreshold 5 across transactions", () -> prepared(5));
        all.put("prepareThreshold -1 with binary transfer", () -> prepared(-1));
        all.put("small statement cache", PgJdbc::smallCache);
        all.put("prepared statement survives ddl", PgJdbc::ddl);
        all.put("batches", PgJdbc::batches);
        all.put("batch with an error", PgJdbc::failingBatch);
        all.put("rewritten batches and generated keys", PgJdbc::rewrittenBatches);
        all.put("fetch size in a transaction", PgJdbc::fetchSize);
        all.put("scrollable and updatable result set", PgJdbc::scrollable);
        all.put("copy in and out", PgJdbc::copy);
        all.put("copy that fails keeps the connection", PgJdbc::failingCopy);
        all.put("listen and notify", PgJdbc::notifications);
        all.put("cancel stops the own query only", PgJdbc::cancel);
        all.put("query timeout", PgJdbc::queryTimeout);
        all.put("large results", PgJdbc::largeResults);
        all.put("large parameters", PgJdbc::largeParameters);
        all.put("reads see the own writes", PgJdbc::readYourWrites);
        all.put("reads run on the replica", PgJdbc::replicaReads);
        all.put("set and show within a transaction", PgJdbc::settings);
        all.put("startup settings are the clients own", PgJdbc::startupSettings);
        all.put("metadata and isValid", PgJdbc::metadata);
        all.put("many short connections", PgJdbc::shortConnections);
        all.put("clients that abort cost no server", PgJdbc::aborts);
        return all;
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("loginTimeout", "20");
        properties.setProperty("socketTimeout", "55");
        for (int index = 0; index < options.length; index += 2) properties.setProperty(options[index], options[index + 1]);
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE"), properties);
    }

    static Object value(Connection connection, String text, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int index = 0; index < parameters.length; index++) statement.setObject(index + 1, parameters[index]);
            try (ResultSet rows = statement.executeQuery()) {
                check(rows.next(), "no row");
                return rows.getObject(1);
            }
        }
    }

    static void run(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) { statement.execute(text); }
    }

    static void create(Connection connection, String table, String columns) throws SQLException {
        run(connection, "DROP TABLE IF EXISTS " + table + "; CREATE TABLE " + table + " (" + columns + ")");
    }

    static void equal(Object found, Object expected) {
        if (!Objects.equals(found, expected)) throw new AssertionError("expected " + expected + ", found " + found);
    }

    static void check(boolean truth, String what) {
        if (!truth) throw new AssertionError(what);
    }

    static void fails(String state, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (SQLException error) {
            equal(error.getSQLState(), state);
            return;
        }
        throw new AssertionError("no error, expected " + state);
    }

    static void atOnce(Numbered run) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(CONNECTIONS);
        try {
            List<Future<?>> all = new ArrayList<>();
            for (int number = 0; number < CONNECTIONS; number++) {
                int mine = number;
                all.add(threads.submit(() -> { run.run(mine); return null; }));
            }
            for (Future<?> one : all) one.get(CHECK_SECONDS - 5, TimeUnit.SECONDS);
        } finally {
            threads.shutdownNow();
        }
    }

    static void connectWithScram() throws Exception {
        try (Connection connection = connect()) {
            equal(value(connection, "SELECT 1"), 1);
            equal(value(connection, "SELECT current_user::text"), System.getenv("PGUSER"));
        }
    }

    static void wrongPassword() throws Exception {
        fails("28P01", () -> connect("password", "wrong"));
    }

    static void queries() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            check(statement.execute("SELECT 1; SELECT 2"), "no result set");
            check(statement.getMoreResults(), "no second result set");
            equal(value(connection, "SELECT ?::int + ?::int", 20, 22), 42);
            equal(value(connection, "SELECT name FROM matrix_items WHERE id = ?", 7), "item 7");
            equal(statement.executeUpdate("SET LOCAL work_mem = '5MB'"), 0);
            statement.execute("");
        }
    }

    static void queryModes() throws Exception {
        for (String mode : List.of("simple", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection connection = connect("preferQueryMode", mode, "prepareThreshold", "1")) {
                for (int turn = 1; turn <= 10; turn++) {
                    equal(value(connection, "SELECT name FROM matrix_items WHERE id = ?", turn), "item " + turn);
                    run(connection, "SELECT 1");
                }
            }
        }
    }

    static void types() throws Exception {
        byte[] bytes = new byte[256];
        for (int index = 0; index < 256; index++) bytes[index] = (byte) index;
        try (Connection connection = connect("prepareThreshold", "1"); PreparedStatement statement = connection.prepareStatement(
                "SELECT ?::bool, ?::int2, ?::int4, ?::int8, ?::float8, ?::numeric, ?::text, ?::bytea, ?::date, ?::timestamptz, ?::uuid, ?::int4[], ?::jsonb, ?::text")) {
            Array array = connection.createArrayOf("int4", new Integer[] {1, null, 3});
            Object[] sent = {true, (short) -32768, Integer.MAX_VALUE, Long.MIN_VALUE, 2.5e300, new BigDecimal("12345678901234567890.123"),
                "Grüße, 世界 🐘", bytes, LocalDate.of(2024, 2, 29), OffsetDateTime.of(2024, 2, 29, 12, 30, 15, 0, ZoneOffset.UTC),
                UUID.fromString("12345678-1234-5678-1234-567812345678"), array, "{\"a\": [1, null]}", null};
            for (int turn = 0; turn < 3; turn++) {
                for (int index = 0; index < sent.length; index++) statement.setObject(index + 1, sent[index]);
                try (ResultSet row = statement.executeQuery()) {
                    check(row.next(), "no row");
                    equal(row.getBoolean(1), true);
                    equal(row.getShort(2), (short) -32768);
                    for (int index : new int[] {3, 4, 5, 6, 7, 11, 14}) equal(row.getObject(index), sent[index - 1]);
                    check(Arrays.equals(row.getBytes(8), bytes), "bytea");
                    equal(row.getObject(9, LocalDate.class), sent[8]);
                    equal(row.getObject(10, OffsetDateTime.class), sent[9]);
                    check(Arrays.equals((Object[]) row.getArray(12).getArray(), new Integer[] {1, null, 3}), "int4[]");
                    equal(row.getString(13), sent[12]);
                }
            }
        }
    }

    static void transactions() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            create(connection, "pgjdbc_tx", "id int PRIMARY KEY");
            connection.setAutoCommit(false);
            run(connection, "INSERT INTO pgjdbc_tx VALUES (1)");
            Savepoint savepoint = connection.setSavepoint("s");
            fails("23505", () -> { run(connection, "INSERT INTO pgjdbc_tx VALUES (1)"); return null; });
            connection.rollback(savepoint);
            run(connection, "INSERT INTO pgjdbc_tx VALUES (2)");
            connection.releaseSavepoint(savepoint);
            connection.commit();
            run(connection, "DELETE FROM pgjdbc_tx");
            connection.rollback();
            equal(value(connection, "SELECT count(*) FROM pgjdbc_tx"), 2L);
            connection.commit();
        }
    }

    static void isolation() throws Exception {
        try (Connection connection = connect()) {
            create(connection, "pgjdbc_levels", "id int");
            connection.setReadOnly(true);
            connection.setAutoCommit(false);
            equal(value(connection, "SELECT count(*) FROM matrix_items"), 1000L);
            fails("25006", () -> { run(connection, "INSERT INTO pgjdbc_levels VALUES (1)"); return null; });
            connection.rollback();
            connection.setReadOnly(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            run(connection, "INSERT INTO pgjdbc_levels VALUES (1)");
            equal(value(connection, "SHOW transaction_isolation"), "serializable");
            connection.commit();
        }
    }

    static void errorInTransaction() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            connection.setAutoCommit(false);
            fails("22012", () -> value(connection, "SELECT 1/?::int", 0));
            fails("25P02", () -> value(connection, "SELECT 1"));
            connection.rollback();
            equal(value(connection, "SELECT 1"), 1);
            connection.commit();
        }
    }

    static void autosave() throws Exception {
        for (String mode : List.of("always", "conservative")) {
            atOnce(number -> {
                try (Connection connection = connect("autosave", mode, "prepareThreshold", "1", "cleanupSavepoints", "true")) {
                    connection.setAutoCommit(false);
                    for (int turn = 0; turn < 5; turn++) {
                        equal(value(connection, "SELECT ?::int", number), number);
                        fails("22012", () -> value(connection, "SELECT 1/?::int", 0));
                        if (mode.equals("conservative")) connection.rollback();
                        equal(value(connection, "SELECT ?::int + 1", number), number + 1);
                        connection.commit();
                    }
                }
            });
        }
    }

    static void errors() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            create(connection, "pgjdbc_errors", "id int PRIMARY KEY");
            run(connection, "INSERT INTO pgjdbc_errors VALUES (1)");
            for (int turn = 0; turn < 3; turn++) {
                fails("23505", () -> { run(connection, "INSERT INTO pgjdbc_errors VALUES (1)"); return null; });
                fails("42P01", () -> value(connection, "SELECT * FROM missing"));
                fails("22012", () -> value(connection, "SELECT 1/?::int", 0));
                equal(value(connection, "SELECT 1/?::int", 1), 1);
            }
        }
    }

    static void prepared(int threshold) throws Exception {
        atOnce(number -> {
            try (Connection connection = connect("prepareThreshold", String.valueOf(threshold));
                 PreparedStatement name = connection.prepareStatement("SELECT name FROM matrix_items WHERE id = ?");
                 PreparedStatement add = connection.prepareStatement("SELECT ?::int + " + number)) {
                for (int turn = 1; turn <= 40; turn++) {
                    connection.setAutoCommit(turn % 3 != 0);
                    PreparedStatement first = (turn + number) % 2 == 0 ? name : add;
                    for (PreparedStatement statement : List.of(first, first == name ? add : name)) {
                        statement.setInt(1, turn);
                        try (ResultSet row = statement.executeQuery()) {
                            check(row.next(), "no row");
                            equal(row.getObject(1), statement == name ? "item " + turn : (Object) (turn + number));
                        }
                    }
                    if (turn % 3 == 0) connection.commit();
                }
            }
        });
    }

    static void smallCache() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1", "preparedStatementCacheQueries", "5")) {
            for (int turn = 0; turn < 3; turn++)
                for (int number = 0; number < 30; number++) equal(value(connection, "SELECT ?::int + " + number, 1), 1 + number);
        }
    }

    static void ddl() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            create(connection, "pgjdbc_ddl", "a int");
            run(connection, "INSERT INTO pgjdbc_ddl VALUES (1)");
            equal(value(connection, "SELECT a FROM pgjdbc_ddl WHERE a = ?", 1), 1);
            run(connection, "ALTER TABLE pgjdbc_ddl ADD b int DEFAULT 2");
            equal(value(connection, "SELECT a FROM pgjdbc_ddl WHERE a = ?", 1), 1);
            try (PreparedStatement all = connection.prepareStatement("SELECT * FROM pgjdbc_ddl")) {
                for (int columns = 2; columns < 5; columns++) {
                    try (ResultSet rows = all.executeQuery()) { equal(rows.getMetaData().getColumnCount(), columns); }
                    run(connection, "ALTER TABLE pgjdbc_ddl ADD c" + columns + " int");
                }
            }
        }
    }

    static void batches() throws Exception {
        atOnce(number -> {
            String table = "pgjdbc_batch_" + number;
            try (Connection connection = connect("prepareThreshold", "1")) {
                create(connection, table, "id int PRIMARY KEY, name text");
                for (boolean auto : new boolean[] {true, false}) {
                    connection.setAutoCommit(auto);
                    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)")) {
                        for (int id = 0; id < 1000; id++) {
                            insert.setInt(1, (auto ? 0 : 1000) + id);
                            insert.setString(2, "name " + id);
                            insert.addBatch();
                        }
                        equal(insert.executeBatch().length, 1000);
                    }
                    if (!auto) connection.commit();
                }
                equal(value(connection, "SELECT count(*) FROM " + table), 2000L);
                connection.rollback();
            }
        });
    }

    static void failingBatch() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            create(connection, "pgjdbc_failing", "id int PRIMARY KEY");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO pgjdbc_failing VALUES (?)")) {
                for (int id : new int[] {1, 2, 2, 3}) { insert.setInt(1, id); insert.addBatch(); }
                try {
                    insert.executeBatch();
                    throw new AssertionError("no error");
                } catch (BatchUpdateException error) {
                    equal(error.getSQLState(), "23505");
                }
            }
            equal(value(connection, "SELECT 1"), 1);
            try (Statement batch = connection.createStatement()) {
                batch.addBatch("INSERT INTO pgjdbc_failing VALUES (10)");
                batch.addBatch("UPDATE pgjdbc_failing SET id = 11 WHERE id = 10");
                equal(Arrays.toString(batch.executeBatch()), "[1, 1]");
            }
        }
    }

    static void rewrittenBatches() throws Exception {
        try (Connection connection = connect("reWriteBatchedInserts", "true", "prepareThreshold", "1")) {
            create(connection, "pgjdbc_keys", "id bigserial PRIMARY KEY, name text");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO pgjdbc_keys (name) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int number = 0; number < 300; number++) { insert.setString(1, "n" + number); insert.addBatch(); }
                insert.executeBatch();
                int keys = 0;
                try (ResultSet rows = insert.getGeneratedKeys()) { while (rows.next()) keys++; }
                equal(keys, 300);
            }
        }
    }

    static void fetchSize() throws Exception {
        atOnce(number -> {
            try (Connection connection = connect("prepareThreshold", "1")) {
                connection.setAutoCommit(false);
                try (PreparedStatement select = connection.prepareStatement("SELECT id FROM matrix_items WHERE id > ? ORDER BY id")) {
                    select.setFetchSize(7);
                    select.setInt(1, number);
                    int expected = number;
                    try (ResultSet rows = select.executeQuery()) {
                        while (rows.next()) {
                            equal(rows.getInt(1), ++expected);
                            if (expected % 100 == 0) equal(value(connection, "SELECT ?::int", expected), expected);
                        }
                    }
                    equal(expected, 1000);
                    select.setMaxRows(3);
                    int rowsSeen = 0;
                    try (ResultSet rows = select.executeQuery()) { while (rows.next()) rowsSeen++; }
                    equal(rowsSeen, 3);
                }
                connection.commit();
            }
        });
    }

    static void scrollable() throws Exception {
        try (Connection connection = connect()) {
            create(connection, "pgjdbc_scroll", "id int PRIMARY KEY, name text");
            run(connection, "INSERT INTO pgjdbc_scroll SELECT n, 'n' || n FROM generate_series(1, 10) n");
            try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                 ResultSet rows = statement.executeQuery("SELECT id, name FROM pgjdbc_scroll ORDER BY id")) {
                check(rows.last() && rows.getInt(1) == 10 && rows.first(), "scrolling");
                rows.updateString(2, "changed");
                rows.updateRow();
            }
            equal(value(connection, "SELECT name FROM pgjdbc_scroll WHERE id = 1"), "changed");
        }
    }

    static void copy() throws Exception {
        atOnce(number -> {
            try (Connection connection = connect()) {
                String table = "pgjdbc_copy_" + number;
                create(connection, table, "id int, name text");
                CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
                StringBuilder rows = new StringBuilder();
                for (int id = 0; id < 20000; id++) rows.append(id).append('\t').append(id % 3 == 0 ? "\\N" : "n" + id).append('\n');
                equal(manager.copyIn("COPY " + table + " FROM STDIN", new StringReader(rows.toString())), 20000L);
                StringWriter out = new StringWriter();
                equal(manager.copyOut("COPY (SELECT * FROM " + table + " ORDER BY id) TO STDOUT", out), 20000L);
                equal(out.toString(), rows.toString());
            }
        });
    }

    static void failingCopy() throws Exception {
        try (Connection connection = connect()) {
            create(connection, "pgjdbc_copy_fails", "id int PRIMARY KEY");
            CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
            fails("23505", () -> manager.copyIn("COPY pgjdbc_copy_fails FROM STDIN", new StringReader("1\n1\n".repeat(10000))));
            manager.copyIn("COPY pgjdbc_copy_fails FROM STDIN").cancelCopy();
            equal(value(connection, "SELECT count(*) FROM pgjdbc_copy_fails"), 0L);
        }
    }

    static void notifications() throws Exception {
        try (Connection listener = connect(); Connection notifier = connect()) {
            run(listener, "LISTEN pgjdbc_channel");
            run(notifier, "NOTIFY pgjdbc_channel, 'one'");
            PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(10000);
            check(heard != null && heard.length == 1, "no notification");
            equal(heard[0].getParameter(), "one");
            equal(value(listener, "SELECT 1"), 1);
        }
    }

    static void cancel() throws Exception {
        try (Connection victim = connect(); Connection neighbour = connect(); Statement sleep = victim.createStatement()) {
            ExecutorService threads = Executors.newFixedThreadPool(2);
            Future<?> cancelled = threads.submit(() -> { fails("57014", () -> sleep.execute("SELECT pg_sleep(50)")); return null; });
            Future<?> unhurt = threads.submit(() -> { run(neighbour, "SELECT pg_sleep(3)"); return null; });
            Thread.sleep(500);
            for (int attempt = 0; attempt < 20 && !cancelled.isDone(); attempt++) {
                sleep.cancel();
                Thread.sleep(1000);
            }
            cancelled.get(1, TimeUnit.SECONDS);
            unhurt.get(20, TimeUnit.SECONDS);
            threads.shutdownNow();
            equal(value(victim, "SELECT 1"), 1);
            equal(value(neighbour, "SELECT 1"), 1);
        }
    }

    static void queryTimeout() throws Exception {
        atOnce(number -> {
            try (Connection connection = connect(); Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                fails("57014", () -> statement.execute("SELECT pg_sleep(50)"));
                equal(value(connection, "SELECT ?::int", number), number);
            }
        });
    }

    static void largeResults() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.setFetchSize(500);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("SELECT repeat('x', 1000) FROM generate_series(1, 50000)")) {
                while (rows.next()) sum += rows.getString(1).length();
            }
            equal(sum, 50_000_000L);
            connection.commit();
            equal(((String) value(connection, "SELECT repeat('y', 52428800)")).length(), 52428800);
            connection.commit();
        }
    }

    static void largeParameters() throws Exception {
        byte[] body = new byte[5_000_000];
        Arrays.fill(body, (byte) 7);
        try (Connection connection = connect("prepareThreshold", "1")) {
            create(connection, "pgjdbc_large", "body bytea");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO pgjdbc_large VALUES (?)")) {
                for (int turn = 0; turn < 3; turn++) { insert.setBytes(1, body); insert.executeUpdate(); }
            }
            equal(value(connection, "SELECT count(*) FROM pgjdbc_large WHERE body = ?", (Object) body), 3L);
        }
    }

    static void readYourWrites() throws Exception {
        try (Connection connection = connect()) { create(connection, "pgjdbc_ryw", "worker int, n int"); }
        atOnce(number -> {
            try (Connection connection = connect("prepareThreshold", "1");
                 PreparedStatement insert = connection.prepareStatement("INSERT INTO pgjdbc_ryw VALUES (?, ?)")) {
                for (int turn = 0; turn < 40; turn++) {
                    insert.setInt(1, number);
                    insert.setInt(2, turn);
                    equal(insert.executeUpdate(), 1);
                    equal(value(connection, "SELECT max(n) FROM pgjdbc_ryw WHERE worker = ?", number), turn);
                }
            }
        });
    }

    static void replicaReads() throws Exception {
        atOnce(number -> {
            try (Connection connection = connect("prepareThreshold", number % 2 == 0 ? "1" : "5")) {
                for (int id = 1; id <= 10; id++) equal(value(connection, "SELECT id FROM replica_reads WHERE id = ?", id), id);
            }
        });
    }

    static void settings() throws Exception {
        atOnce(number -> {
            try (Connection connection = connect("prepareThreshold", "1")) {
                connection.setAutoCommit(false);
                run(connection, "SET LOCAL work_mem = '" + (number + 1) + "MB'");
                equal(value(connection, "SHOW work_mem"), (number + 1) + "MB");
                connection.rollback();
                equal(value(connection, "SHOW work_mem"), "4MB");
                connection.commit();
            }
        });
    }

    static void startupSettings() throws Exception {
        atOnce(number -> {
            String zone = TimeZone.getDefault().getID();  // the driver sends it at startup
            try (Connection connection = connect("ApplicationName", "pgjdbc " + number, "options", "-c statement_timeout=5" + number + "s")) {
                for (int turn = 0; turn < 10; turn++) {
                    equal(value(connection, "SHOW application_name"), "pgjdbc " + number);
                    equal(value(connection, "SHOW TimeZone"), zone);
                    equal(value(connection, "SHOW statement_timeout"), "5" + number + "s");
                }
                connection.setClientInfo("ApplicationName", "renamed");
                equal(value(connection, "SHOW application_name"), "renamed");
                connection.setAutoCommit(false);
                equal(value(connection, "SHOW application_name"), "renamed");
                connection.rollback();
            }
        });
    }

    static void metadata() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            int columns = 0;
            try (ResultSet rows = connection.getMetaData().getColumns(null, "public", "matrix_items", null)) { while (rows.next()) columns++; }
            equal(columns, 2);
            try (PreparedStatement statement = connection.prepareStatement("SELECT id, name FROM matrix_items WHERE id = ?")) {
                equal(statement.getParameterMetaData().getParameterTypeName(1), "int4");
                equal(statement.getMetaData().getColumnTypeName(2), "text");
            }
            for (int turn = 0; turn < 5; turn++) check(connection.isValid(10), "not valid");
        }
    }

    static void shortConnections() throws Exception {
        atOnce(number -> {
            for (int turn = 0; turn < 15; turn++) {
                try (Connection connection = connect()) { equal(value(connection, "SELECT ?::int", turn), turn); }
            }
        });
    }

    static void aborts() throws Exception {
        atOnce(number -> {
            Connection connection = connect();
            ExecutorService thread = Executors.newSingleThreadExecutor();
            thread.submit(() -> { run(connection, "SELECT pg_sleep(55)"); return null; });
            Thread.sleep(100);
            connection.abort(Runnable::run);
            thread.shutdownNow();
        });
        shortConnections();
    }
}
