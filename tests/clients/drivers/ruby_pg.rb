# Ruby's pg: statements by name, its transactions, COPY and how it ends early, single rows, pipelines, notifications, cancel, large
# objects, reset. Prints `ok NAME` or `FAIL NAME: why` per check; the environment says where to connect, see check.py.
require "pg"
require "timeout"

CONNECTIONS = Integer(ENV.fetch("MATRIX_CONNECTIONS", "8"))
CHECK_SECONDS = 60
ONLY = ARGV.fetch(0, "")
CHECKS = {}
$stdout.sync = true

def check(name, &run) = CHECKS[name] = run

def connected
  connection = PG.connect(connect_timeout: 20)
  yield connection
ensure
  connection&.finish
end

def same(got, expected)
  raise "got #{got.inspect}, expected #{expected.inspect}" unless got == expected
end

def fails(state)
  yield
rescue PG::Error => error
  same(error.result.error_field(PG::PG_DIAG_SQLSTATE), state)
else
  raise "no error, expected #{state}"
end

# What a pipeline answers up to its sync.
def answers(connection)
  found = []
  until found.last&.result_status == PG::PGRES_PIPELINE_SYNC
    result = connection.get_result
    found << result if result
  end
  found[0...-1]
end

check "connect with scram" do
  connected { |db| same(db.exec("SELECT 1, current_user::text").values, [["1", ENV["PGUSER"]]]) }
end

check "named statements" do
  connected do |db|
    db.prepare("item", "SELECT name FROM matrix_items WHERE id = $1")
    (1..5).each { |id| same(db.exec_prepared("item", [id]).values, [["item #{id}"]]) }
    same(db.describe_prepared("item").nparams, 1)
    db.exec("DEALLOCATE item")
    fails("26000") { db.exec_prepared("item", [1]) }
  end
end

check "named statements of many connections" do
  all = Array.new(CONNECTIONS) { PG.connect }
  all.each { |db| db.prepare("item", "SELECT name FROM matrix_items WHERE id = $1") }
  5.times { all.each_with_index { |db, id| same(db.exec_prepared("item", [id + 1]).values, [["item #{id + 1}"]]) } }
  all.each(&:finish)
end

check "parameters and results in binary" do
  connected do |db|
    same(db.exec_params("SELECT $1::bytea", [{ value: "\0\1", format: 1 }], 1).values, [["\0\1"]])
    db.type_map_for_results = PG::BasicTypeMapForResults.new(db)
    same(db.exec_params("SELECT $1::int, $2::text, 1.5::float8, true", [7, nil]).values, [[7, nil, 1.5, true]])
  end
end

check "transactions" do
  connected do |db|
    db.exec("CREATE TEMP TABLE ruby_marks (id int)")
    db.transaction { |inside| inside.exec("INSERT INTO ruby_marks VALUES (1)") }
    fails("22012") { db.transaction { |inside| inside.exec("DELETE FROM ruby_marks; SELECT 1/0") } }
    same(db.transaction_status, PG::PQTRANS_IDLE)
    same(db.exec("SELECT id FROM ruby_marks").values, [["1"]])
  end
end

check "copy" do
  connected do |db|
    db.exec("CREATE TEMP TABLE ruby_copied (id int)")
    db.copy_data("COPY ruby_copied FROM STDIN") { 1000.times { |id| db.put_copy_data("#{id}\n") } }
    lines = []
    db.copy_data("COPY (SELECT id FROM ruby_copied ORDER BY id) TO STDOUT") do
      while (line = db.get_copy_data) do lines << line end
    end
    same(lines, (0...1000).map { |id| "#{id}\n" })
    begin
      db.copy_data("COPY ruby_copied FROM STDIN") { raise "enough" }
    rescue RuntimeError => error
      same(error.message, "enough")
    end
    same(db.exec("SELECT count(*) FROM ruby_copied").values, [["1000"]])
  end
end

check "single rows" do
  connected do |db|
    db.send_query("SELECT generate_series(1, 100)")
    db.set_single_row_mode
    same(db.get_result.stream_each_row.map(&:first), (1..100).map(&:to_s))
    same(db.get_result, nil)
  end
end

check "pipelines" do
  connected do |db|
    db.enter_pipeline_mode
    100.times { |number| db.send_query_params("SELECT $1::int", [number]) }
    db.pipeline_sync
    same(answers(db).map { |result| result.getvalue(0, 0) }, (0...100).map(&:to_s))
    [["SELECT 1/$1::int", [0]], ["SELECT 2", []]].each { |text, values| db.send_query_params(text, values) }
    db.pipeline_sync
    same(answers(db).map(&:result_status), [PG::PGRES_FATAL_ERROR, PG::PGRES_PIPELINE_ABORTED])
    db.exit_pipeline_mode
    same(db.exec("SELECT 3").values, [["3"]])
  end
end

check "notifications" do
  connected do |listener|
    listener.exec("LISTEN ruby_news")
    connected { |sender| sender.exec("NOTIFY ruby_news, 'hello'") }
    heard = nil
    listener.wait_for_notify(20) { |channel, _, payload| heard = [channel, payload] }
    same(heard, %w[ruby_news hello])
  end
end

check "cancel" do
  connected do |db|
    db.send_query("SELECT pg_advisory_xact_lock(1601), pg_sleep(600)")
    # A cancel that comes before its query is lost.
    connected { |other| sleep(0.01) while other.exec("SELECT pg_try_advisory_xact_lock(1601)").getvalue(0, 0) == "t" }
    same(db.cancel, nil)
    fails("57014") { db.get_last_result }
    same(db.exec("SELECT 7").values, [["7"]])
  end
end

check "large objects" do
  connected do |db|
    db.transaction do
      object = db.lo_creat
      file = db.lo_open(object, PG::INV_WRITE | PG::INV_READ)
      db.lo_write(file, "hello")
      db.lo_lseek(file, 0, PG::SEEK_SET)
      same(db.lo_read(file, 5), "hello")
      db.lo_unlink(object)
    end
  end
end

check "reset begins anew" do
  connected do |db|
    db.exec("SET search_path = elsewhere")
    db.reset
    same(db.exec("SHOW search_path").values, [['"$user", public']])
  end
end

check "encodings" do
  connected do |db|
    db.set_client_encoding("LATIN1")
    same(db.exec("SELECT chr(233)").getvalue(0, 0).bytes, [233])
  end
end

check "reads on the replica" do
  connected do |db|
    20.times { same(db.exec_params("SELECT count(*) FROM replica_reads WHERE id <= $1", [10]).values, [["10"]]) }
  end
end

failed = 0
CHECKS.select { |name, _| name.tr(" ", "_").include?(ONLY) }.each do |name, run|
  Timeout.timeout(CHECK_SECONDS) { run.call }
  puts "ok #{name}"
rescue StandardError => error
  failed += 1
  puts "FAIL #{name}: #{error.class}: #{error.message.split.join(" ")}"
end
exit(failed.zero?)
