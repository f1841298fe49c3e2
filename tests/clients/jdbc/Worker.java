import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;

/**
 * A worker for one queue, with JDBC: {@code java Worker}.
 *
 * <p>Two ways to claim, PGQ_WAY:
 *
 * <p>transaction: Claim, work and COMMIT are one transaction: what the work does on this connection happens exactly
 * once. A job that kills the worker (out of memory, a segfault) is back at once and nothing is counted, so it can kill
 * one worker after the other, for ever.
 *
 * <p>lease: The claim commits at once; the job is done again if this worker does not complete it while the lease
 * lasts: at least once. A job that kills the worker is back when its lease ends, a failure is counted, and at
 * max_attempts the job is dead. For long work, and for work that is not in the database.
 */
public final class Worker {
    private static final String QUEUE = System.getenv("PGQ_QUEUE");
    private static final boolean LEASE = "lease".equals(System.getenv("PGQ_WAY"));
    private static final int LEASE_SECONDS = number("PGQ_LEASE_SECONDS", 30);
    /** For what no notification tells: jobs whose notification was lost with a connection. */
    private static final int POLL_SECONDS = number("PGQ_POLL_SECONDS", 30);
    /**
     * Behind a pooler in transaction mode neither LISTEN nor prepared statements last. PgBouncer refuses pgjdbc unless
     * its configuration says {@code ignore_startup_parameters = extra_float_digits}.
     */
    private static final boolean POOLED = "1".equals(System.getenv("PGQ_POOLED"));

    // --- the work: one function for each task of the queue

    private interface Task {
        void run(Connection connection, Job job) throws Exception;
    }

    private record Job(long id, int attempt, String task, String args) {}

    private static final Map<String, Task> TASKS =
            Map.of("insert", Worker::insert, "sleep", Worker::sleep, "fail", Worker::fail);

    private static void insert(Connection connection, Job job) throws SQLException {
        execute(connection, "INSERT INTO effect (job, attempt) VALUES (?, ?)", job.id(), job.attempt());
    }

    private static void sleep(Connection connection, Job job) throws Exception {
        insert(connection, job);
        // No JSON library here; with one, parse job.args().
        Object seconds = first(connection, "SELECT (?::jsonb->>'seconds')::float8", job.args());
        Thread.sleep((long) ((Double) seconds * 1000));
    }

    private static void fail(Connection connection, Job job) throws SQLException {
        insert(connection, job);
        throw new IllegalStateException("failed on purpose");
    }

    // --- one job

    /** Claims a job, does it, and commits both. False: there is none. */
    private static boolean runInTransaction(Connection connection) throws SQLException {
        Job job = null;
        connection.setAutoCommit(false);
        try {
            job = claim(connection, "SELECT id, attempt, task, args FROM pgq.claim(?, tasks => ?)");
            if (job != null) {
                TASKS.get(job.task()).run(connection, job);
            }
            connection.commit();
        } catch (Exception error) {
            // Fails when the connection is lost: then the server has the job back already, and nothing is counted.
            connection.rollback();
            connection.setAutoCommit(true);
            if (job == null) {
                throw new SQLException(error);
            }
            recordFailure(connection, job, error);
        }
        connection.setAutoCommit(true);
        return job != null;
    }

    /** Claims a job with a lease, does it, and completes it. False: there is none. */
    private static boolean runWithLease(Connection connection) throws SQLException {
        Job job = claim(
                connection,
                "SELECT id, attempt, task, args FROM pgq.claim(?, tasks => ?, lease => make_interval(secs => ?))",
                LEASE_SECONDS);
        if (job == null) {
            return false;
        }
        ScheduledExecutorService heart = startHeartbeat(job);
        try {
            TASKS.get(job.task()).run(connection, job);
        } catch (Exception error) {
            recordFailure(connection, job, error);
            return true;
        } finally {
            heart.shutdown();
        }
        if (!Boolean.TRUE.equals(first(connection, "SELECT pgq.complete(?, ?)", job.id(), job.attempt()))) {
            log("job %d: attempt %d had lost its lease; it is done again", job.id(), job.attempt());
        }
        return true;
    }

    private static Job claim(Connection connection, String sql, Object... more) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setString(1, QUEUE);
            statement.setArray(2, connection.createArrayOf("text", TASKS.keySet().toArray()));
            for (int i = 0; i < more.length; i++) {
                statement.setObject(3 + i, more[i]);
            }
            try (ResultSet row = statement.executeQuery()) {
                return row.next() ? new Job(row.getLong(1), row.getInt(2), row.getString(3), row.getString(4)) : null;
            }
        }
    }

    /** In a transaction of its own: otherwise the failing job would be the next one, at once, for ever. */
    private static void recordFailure(Connection connection, Job job, Exception error) throws SQLException {
        log("job %d, attempt %d: %s", job.id(), job.attempt(), error);
        execute(connection, "SELECT pgq.fail(?, ?, ?)", job.id(), job.attempt(), error.toString());
    }

    /** Extends the lease every third of it, in a thread, on a connection of its own. */
    private static ScheduledExecutorService startHeartbeat(Job job) {
        ScheduledExecutorService heart = Executors.newSingleThreadScheduledExecutor();
        long third = Duration.ofSeconds(LEASE_SECONDS).toMillis() / 3;
        String sql = "SELECT pgq.extend(?, ?, make_interval(secs => ?))";
        heart.scheduleAtFixedRate(() -> {
            try (Connection connection = connect()) {
                execute(connection, sql, job.id(), job.attempt(), LEASE_SECONDS);
            } catch (SQLException error) {
                log("no heartbeat this time: %s", error);
            }
        }, third, third, TimeUnit.MILLISECONDS);
        return heart;
    }

    // --- the loop

    private static volatile boolean stopping;

    private static void work(Connection connection) throws SQLException {
        if (!POOLED) {
            try (Statement statement = connection.createStatement()) {
                statement.execute("LISTEN " + statement.enquoteIdentifier("pgq_" + QUEUE, true));
            }
        }
        while (!stopping) {
            if (!(LEASE ? runWithLease(connection) : runInTransaction(connection))) {
                await(connection);
            }
        }
    }

    /**
     * Waits for a notification. pgjdbc hands them out only when it is asked, and nothing but the server ends its wait,
     * so it waits for half a second at a time in order to see that it shall stop. That asks the server nothing.
     */
    private static void await(Connection connection) throws SQLException {
        PGConnection listener = connection.unwrap(PGConnection.class);
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(POLL_SECONDS);
        while (!stopping && System.nanoTime() < end && listener.getNotifications(500).length == 0) {
            // What came during the claim is handed out by the first call.
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Thread worker = Thread.currentThread();
        // Java ends when this thread ends, with the status of the signal; halt gives 0.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            try {
                worker.join();
            } catch (InterruptedException interrupted) {
                Runtime.getRuntime().halt(1);
            }
            Runtime.getRuntime().halt(0);
        }));
        long pause = 100;
        while (!stopping) {
            try (Connection connection = connect()) {
                pause = 100;
                work(connection);
            } catch (SQLException error) {
                log("connection lost, next try in %d ms: %s", pause, error);
                Thread.sleep(stopping ? 0 : pause);
                pause = Math.min(2 * pause, 5000);
            }
        }
    }

    // --- JDBC

    private static Connection connect() throws SQLException {
        URI uri = URI.create(System.getenv("PGQ_DSN"));
        Properties properties = new Properties();
        properties.setProperty("user", uri.getUserInfo());
        properties.setProperty("connectTimeout", "10");
        properties.setProperty("tcpKeepAlive", "true");
        if (POOLED) {
            properties.setProperty("prepareThreshold", "0");
        }
        String server = uri.getHost() + ":" + uri.getPort();
        return DriverManager.getConnection("jdbc:postgresql://" + server + uri.getPath(), properties);
    }

    private static void execute(Connection connection, String sql, Object... values) throws SQLException {
        first(connection, sql, values);
    }

    private static Object first(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                statement.setObject(i + 1, values[i]);
            }
            if (!statement.execute()) {
                return null;
            }
            try (ResultSet row = statement.getResultSet()) {
                return row.next() ? row.getObject(1) : null;
            }
        }
    }

    private static int number(String name, int otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : Integer.parseInt(value);
    }

    private static void log(String format, Object... values) {
        System.err.printf(format + "%n", values);
    }

    private Worker() {}
}
