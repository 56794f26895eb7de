# Perl's DBD::Pg: statements prepared on the server, in the client and not at all, COPY, large objects, notifications, asynchronous
# queries, savepoints, cursors. Prints `ok NAME` or `FAIL NAME: why` per check; the environment says where to connect, see check.py.
use strict;
use warnings;
use DBD::Pg qw(:pg_types :async);
use DBI;
use Test::More ();

my $CONNECTIONS = $ENV{MATRIX_CONNECTIONS} || 8;
my $CHECK_SECONDS = 60;
my $ONLY = shift // "";
my @checks;
$| = 1;

sub check { push @checks, [@_] }

sub connected {
    my (%options) = @_;
    return DBI->connect("dbi:Pg:", "", "", { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, %options });
}

# Compares structures; dies with both when they differ.
sub same {
    my ($got, $expected, $what) = @_;
    return if Test::More::eq_array([$got], [$expected]);
    my $shown = sub { join ", ", map { $_ // "undef" } ref $_[0] eq "ARRAY" ? map { ref $_ ? "[@$_]" : $_ } @{ $_[0] } : $_[0] };
    die(($what // "") . " got " . $shown->($got) . ", expected " . $shown->($expected) . "\n");
}

# Runs what must fail with this SQLSTATE.
sub fails {
    my ($db, $state, $run) = @_;
    die "no error, expected $state\n" if eval { $run->(); 1 };
    same($db->state, $state, $@);
}

check "connect with scram" => sub {
    my $db = connected();
    same([$db->selectrow_array("SELECT 1, current_user::text")], [1, $ENV{PGUSER}]);
    same($db->ping, 1);
    same($db->clone->selectrow_array("SELECT 2"), 2);
};

check "statements prepared in every way" => sub {
    for my $options ({ pg_server_prepare => 1 }, { pg_server_prepare => 0 }, { pg_server_prepare => 1, pg_switch_prepared => 1 },
        { pg_direct => 1 }, { pg_expand_array => 0 }) {
        my $db = connected(%$options);
        my $item = $db->prepare("SELECT name, ?::int[] FROM matrix_items WHERE id = ?");
        for my $id (1 .. 5) {
            $item->execute([$id, 2], $id);
            same($item->fetchrow_arrayref->[0], "item $id");
            $item->finish;
        }
    }
};

check "prepared statements of many connections" => sub {
    my @all = map { connected() } 1 .. $CONNECTIONS;
    my @statements = map { $_->prepare("SELECT name FROM matrix_items WHERE id = ?") } @all;
    for my $round (1 .. 5) {
        for my $number (0 .. $#all) {
            my $id = $round * 10 + $number;
            same($all[$number]->selectrow_array($statements[$number], undef, $id), "item $id");
        }
    }
    $_->disconnect for @all;
};

check "rows of many types" => sub {
    my $db = connected();
    $db->do("DROP TABLE IF EXISTS dbd_rows");
    $db->do("CREATE TABLE dbd_rows (id serial PRIMARY KEY, word text, bytes bytea, numbers int[], amount numeric, at timestamptz)");
    my $insert = $db->prepare("INSERT INTO dbd_rows (word, bytes, numbers, amount, at) VALUES (?, ?, ?, ?, ?) RETURNING id");
    $insert->bind_param(2, undef, { pg_type => PG_BYTEA });
    for my $n (1 .. 5) {
        $insert->execute("word $n", "\0\1$n", [$n, undef], "$n.5", "2020-01-01 00:00:0$n+00");
        same([$insert->fetchrow_array], [$n]);
    }
    same($db->last_insert_id(undef, undef, "dbd_rows", undef), 5);
    my $row = $db->selectrow_hashref("SELECT * FROM dbd_rows WHERE id = ?", undef, 3);
    same([@$row{qw(word bytes amount)}], ["word 3", "\0\1" . "3", "3.5"]);
    same($row->{numbers}, [3, undef]);
    fails($db, "23505", sub { $db->do("INSERT INTO dbd_rows (id) VALUES (?)", undef, 1) });
    same($db->pg_error_field("constraint"), "dbd_rows_pkey");
    same([$db->primary_key(undef, "public", "dbd_rows")], ["id"]);
    $db->do("DROP TABLE dbd_rows");
};

check "transactions and savepoints" => sub {
    my $db = connected();
    $db->do("CREATE TEMP TABLE dbd_marks (id int)");
    $db->begin_work;
    $db->do("INSERT INTO dbd_marks VALUES (1)");
    $db->pg_savepoint("here");
    fails($db, "22012", sub { $db->do("SELECT 1/0") });
    fails($db, "25P02", sub { $db->do("SELECT 1") });
    $db->pg_rollback_to("here");
    $db->commit;
    $db->begin_work;
    $db->do("DELETE FROM dbd_marks");
    $db->rollback;
    same($db->selectrow_array("SELECT count(*) FROM dbd_marks"), 1);
};

check "copy" => sub {
    my $db = connected();
    $db->do("CREATE TEMP TABLE dbd_copied (id int, word text)");
    $db->do("COPY dbd_copied FROM STDIN");
    $db->pg_putcopydata("$_\tword\n") for 1 .. 1000;
    $db->pg_putcopyend;
    $db->do("COPY (SELECT id FROM dbd_copied ORDER BY id) TO STDOUT");
    my ($line, @ids) = ("");
    push @ids, $line + 0 while $db->pg_getcopydata($line) >= 0;
    same(\@ids, [1 .. 1000]);
};

check "notifications" => sub {
    my ($listener, $sender) = (connected(), connected());
    $listener->do("LISTEN dbd_news");
    $sender->do("NOTIFY dbd_news, 'hello'");
    my $news;
    select(undef, undef, undef, 0.02) until $news = $listener->pg_notifies;
    same([@$news[0, 2]], ["dbd_news", "hello"]);
};

check "large objects" => sub {
    my $db = connected(AutoCommit => 0);
    my $object = $db->pg_lo_creat($db->{pg_INV_WRITE});
    my $file = $db->pg_lo_open($object, $db->{pg_INV_WRITE} | $db->{pg_INV_READ});
    same($db->pg_lo_write($file, "hello", 5), 5);
    $db->pg_lo_lseek($file, 0, 0);
    my $buffer = "";
    same([$db->pg_lo_read($file, $buffer, 5), $buffer], [5, "hello"]);
    $db->pg_lo_unlink($object);
    $db->commit;
};

check "asynchronous queries and cancel" => sub {
    my $db = connected();
    my $query = $db->prepare("SELECT pg_sleep(0.05), 42", { pg_async => PG_ASYNC });
    $query->execute;
    select(undef, undef, undef, 0.01) until $db->pg_ready;
    $db->pg_result;
    same($query->fetchrow_arrayref->[1], 42);
    my $slow = $db->prepare("SELECT pg_advisory_xact_lock(1603), pg_sleep(600)", { pg_async => PG_ASYNC });
    $slow->execute;
    # A cancel that comes before its query is lost.
    my $other = connected();
    select(undef, undef, undef, 0.01) while $other->selectrow_array("SELECT pg_try_advisory_xact_lock(1603)");
    same($db->pg_cancel, 1);
    same($db->selectrow_array("SELECT 7"), 7);
};

check "cursors that outlive their transaction" => sub {
    my $db = connected();
    $db->do("DECLARE dbd_cursor CURSOR WITH HOLD FOR SELECT generate_series(1, 10)");
    same($db->selectcol_arrayref("FETCH 3 FROM dbd_cursor"), [1 .. 3]);
    same($db->selectcol_arrayref("FETCH 3 FROM dbd_cursor"), [4 .. 6]);
    $db->do("CLOSE dbd_cursor");
};

check "settings stay" => sub {
    my @all = map { connected() } 1 .. $CONNECTIONS;
    $all[$_]->do("SET search_path = dbd_$_, public") for 0 .. $#all;
    same($all[$_]->selectrow_array("SHOW search_path"), "dbd_$_, public") for 0 .. $#all;
};

check "reads on the replica" => sub {
    my $db = connected();
    my $count = $db->prepare("SELECT count(*) FROM replica_reads WHERE id <= ?");
    same($db->selectrow_array($count, undef, 10), 10) for 1 .. 20;
};

my $failed = 0;
for my $check (@checks) {
    my ($name, $run) = @$check;
    next if index($name =~ tr/ /_/r, $ONLY) < 0;
    local $SIG{ALRM} = sub { die "no end within $CHECK_SECONDS s\n" };
    alarm $CHECK_SECONDS;
    my $passes = eval { $run->(); 1 };
    alarm 0;
    $failed += !$passes;
    print $passes ? "ok $name\n" : "FAIL $name: " . ($@ =~ s/\s+/ /gr) . "\n";
}
exit($failed ? 1 : 0);
