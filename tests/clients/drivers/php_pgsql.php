<?php
// PHP's PDO, with statements prepared by the server and by PDO, and its functions on libpq: COPY, large objects, scrolling
// cursors, notifications, asynchronous queries, persistent connections.
// Prints `ok NAME` or `FAIL NAME: why` per check; the environment says where to connect, see check.py.
declare(strict_types=1);

$connections = (int) (getenv("MATRIX_CONNECTIONS") ?: 8);
$only = $argv[1] ?? "";
const CHECK_SECONDS = 60;
$checks = [];

function pdo(bool $emulated = false): PDO {
    $where = sprintf("pgsql:host=%s;port=%s;dbname=%s", getenv("PGHOST"), getenv("PGPORT"), getenv("PGDATABASE"));
    return new PDO($where, getenv("PGUSER"), getenv("PGPASSWORD"),
        [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => $emulated]);
}

function libpq(): PgSql\Connection {
    return pg_connect("connect_timeout=20", PGSQL_CONNECT_FORCE_NEW);
}

function same(mixed $got, mixed $expected): void {
    if ($got !== $expected) throw new Exception("got " . json_encode($got) . ", expected " . json_encode($expected));
}

function fails(string $state, callable $run): void {
    try {
        $run();
    } catch (PDOException $error) {
        same($error->getCode(), $state);
        return;
    }
    throw new Exception("no error, expected $state");
}

$checks["connect with scram"] = function () {
    same(pdo()->query("SELECT 1, current_user::text")->fetch(PDO::FETCH_NUM), [1, getenv("PGUSER")]);
    same(pg_fetch_row(pg_query(libpq(), "SELECT 1")), ["1"]);
};

$checks["statements prepared by the server and by pdo"] = function () {
    foreach ([false, true] as $emulated) {
        $db = pdo($emulated);
        for ($id = 1; $id <= 5; $id++) {
            // Gone again at the end of each turn: by DEALLOCATE, where the server has it.
            $item = $db->prepare("SELECT name FROM matrix_items WHERE id = :id");
            $item->execute(["id" => $id]);
            same($item->fetchAll(PDO::FETCH_COLUMN), ["item $id"]);
        }
    }
};

$checks["prepared statements of many connections"] = function () use ($connections) {
    $all = array_map(fn() => pdo(), range(1, $connections));
    $statements = array_map(fn($db) => $db->prepare("SELECT name FROM matrix_items WHERE id = ?"), $all);
    for ($round = 1; $round <= 5; $round++) {
        foreach ($statements as $number => $statement) {
            $statement->execute([$round * 10 + $number]);
            same($statement->fetchColumn(), "item " . ($round * 10 + $number));
        }
    }
};

$checks["rows of many types"] = function () {
    $db = pdo();
    $db->exec("DROP TABLE IF EXISTS php_rows");
    $db->exec("CREATE TABLE php_rows (id serial PRIMARY KEY, word text, bytes bytea, yes bool)");
    $insert = $db->prepare("INSERT INTO php_rows (word, bytes, yes) VALUES (:word, :bytes, :yes) RETURNING id");
    foreach ([1, 2, 3] as $n) {
        $insert->bindValue(":word", "Grüße $n");
        $insert->bindValue(":bytes", "\0\1$n", PDO::PARAM_LOB);
        $insert->bindValue(":yes", $n % 2 == 0, PDO::PARAM_BOOL);
        $insert->execute();
        same($insert->fetchColumn(), $n);
    }
    same($db->lastInsertId("php_rows_id_seq"), "3");
    $row = $db->query("SELECT * FROM php_rows WHERE id = 2")->fetch(PDO::FETCH_ASSOC);
    same([$row["word"], stream_get_contents($row["bytes"]), $row["yes"]], ["Grüße 2", "\0\1" . "2", true]);
    fails("23505", fn() => $db->exec("INSERT INTO php_rows (id) VALUES (1)"));
    $db->exec("DROP TABLE php_rows");
};

$checks["transactions"] = function () {
    $db = pdo();
    $db->exec("CREATE TEMP TABLE php_marks (id int)");
    $db->beginTransaction();
    $db->exec("INSERT INTO php_marks VALUES (1)");
    fails("22012", fn() => $db->exec("SELECT 1/0"));
    same($db->inTransaction(), true);
    $db->rollBack();
    $db->beginTransaction();
    $db->exec("INSERT INTO php_marks VALUES (2)");
    $db->commit();
    same($db->query("SELECT id FROM php_marks")->fetchAll(PDO::FETCH_COLUMN), [2]);
};

$checks["copy"] = function () {
    $db = pdo();
    $db->exec("CREATE TEMP TABLE php_copied (id int, word text)");
    $db->pgsqlCopyFromArray("php_copied", ["1\tone", "2\ttwo"]);
    same($db->pgsqlCopyToArray("php_copied"), ["1\tone\n", "2\ttwo\n"]);
    $link = libpq();
    pg_query($link, "CREATE TEMP TABLE php_lines (id int)");
    pg_query($link, "COPY php_lines FROM STDIN");
    pg_put_line($link, "1\n");
    pg_put_line($link, "\\.\n");
    same(pg_end_copy($link), true);
    same(pg_copy_to($link, "php_lines"), ["1\n"]);
};

$checks["large objects"] = function () {
    $db = pdo();
    $db->beginTransaction();
    $object = $db->pgsqlLOBCreate();
    fwrite($db->pgsqlLOBOpen($object, "w"), "hello");
    $db->commit();
    $db->beginTransaction();
    same(stream_get_contents($db->pgsqlLOBOpen($object)), "hello");
    $db->pgsqlLOBUnlink($object);
    $db->commit();
};

$checks["scrolling cursors"] = function () {
    $db = pdo();
    $db->beginTransaction();
    $numbers = $db->prepare("SELECT generate_series(1, 10)", [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $numbers->execute();
    same($numbers->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 5), [5]);
    same($numbers->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR), [4]);
    $db->commit();
};

$checks["notifications"] = function () {
    [$listener, $sender] = [pdo(), pdo()];
    $listener->exec("LISTEN php_news");
    $sender->exec("NOTIFY php_news, 'hello'");
    $news = $listener->pgsqlGetNotify(PDO::FETCH_ASSOC, 20000);
    same([$news["message"], $news["payload"]], ["php_news", "hello"]);
};

$checks["asynchronous queries and cancel"] = function () {
    $link = libpq();
    pg_send_query($link, "SELECT 1; SELECT 2; SELECT 3");
    $rows = [];
    while ($result = pg_get_result($link)) $rows[] = pg_fetch_row($result)[0];
    same($rows, ["1", "2", "3"]);
    pg_send_query($link, "SELECT pg_advisory_xact_lock(1602), pg_sleep(600)");
    // A cancel that comes before its query is lost.
    $other = libpq();
    while (pg_fetch_row(pg_query($other, "SELECT pg_try_advisory_xact_lock(1602)")) == ["t"]) usleep(10000);
    same(pg_cancel_query($link), true);
    same(pg_fetch_row(pg_query($link, "SELECT 7")), ["7"]);
};

$checks["functions that look at tables"] = function () {
    $link = libpq();
    pg_query($link, "DROP TABLE IF EXISTS php_things; CREATE TABLE php_things (id int PRIMARY KEY, word text)");
    pg_insert($link, "php_things", ["id" => 1, "word" => "one"]);
    pg_update($link, "php_things", ["word" => "two"], ["id" => 1]);
    same(pg_select($link, "php_things", ["id" => 1]), [["id" => "1", "word" => "two"]]);
    same(array_keys(pg_meta_data($link, "php_things")), ["id", "word"]);
    pg_query($link, "DROP TABLE php_things");
};

$checks["named statements and encodings"] = function () {
    $link = libpq();
    pg_prepare($link, "item", 'SELECT name FROM matrix_items WHERE id = $1');
    for ($id = 1; $id <= 5; $id++) same(pg_fetch_row(pg_execute($link, "item", [$id])), ["item $id"]);
    same(pg_set_client_encoding($link, "LATIN1"), 0);
    same([pg_client_encoding($link), pg_fetch_row(pg_query($link, "SELECT chr(233)"))], ["LATIN1", ["\xe9"]]);
};

$checks["persistent connections and resets"] = function () {
    for ($turn = 0; $turn < 3; $turn++) {
        $link = pg_pconnect("connect_timeout=20");
        pg_query($link, "SET search_path = turn_$turn");
        same(pg_connection_reset($link), true);
        same(pg_fetch_row(pg_query($link, "SHOW search_path")), ['"$user", public']);
    }
};

$checks["reads on the replica"] = function () {
    $count = pdo()->prepare("SELECT count(*) FROM replica_reads WHERE id <= ?");
    for ($turn = 0; $turn < 20; $turn++) {
        $count->execute([10]);
        same($count->fetchColumn(), 10);
    }
};

set_error_handler(fn($_, $said) => throw new Exception($said));
pcntl_async_signals(true);
pcntl_signal(SIGALRM, fn() => throw new Exception("no end within " . CHECK_SECONDS . " s"));
$failed = 0;
foreach ($checks as $name => $run) {
    if (!str_contains(str_replace(" ", "_", $name), $only)) continue;
    pcntl_alarm(CHECK_SECONDS);
    try {
        $run();
        echo "ok $name\n";
    } catch (Throwable $error) {
        $failed++;
        echo "FAIL $name: ", preg_replace('/\s+/', " ", $error->getMessage()), "\n";
    }
    pcntl_alarm(0);
}
exit($failed ? 1 : 0);
