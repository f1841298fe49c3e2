// A worker for one queue, with postgres.js: `node worker.js`.
//
// Two ways to claim, PGQ_WAY:
//
// transaction  Claim, work and COMMIT are one transaction: what the work does in it happens exactly once. A job that
//              kills the worker (out of memory, a segfault) is back at once and nothing is counted, so it can kill
//              one worker after the other, for ever.
// lease        The claim commits at once; the job is done again if this worker does not complete it while the lease
//              lasts: at least once. A job that kills the worker is back when its lease ends, a failure is counted,
//              and at max_attempts the job is dead. For long work, and for work that is not in the database.

import { setTimeout as pause } from 'node:timers/promises'
import postgres from 'postgres'

const QUEUE = process.env.PGQ_QUEUE
const WAY = process.env.PGQ_WAY ?? 'transaction'
const LEASE_SECONDS = Number(process.env.PGQ_LEASE_SECONDS ?? 30)
// For what no notification tells: jobs whose notification was lost with a connection.
const POLL_SECONDS = Number(process.env.PGQ_POLL_SECONDS ?? 30)
// Behind a pooler in transaction mode neither LISTEN nor prepared statements last.
const POOLED = process.env.PGQ_POOLED === '1'

const OPTIONS = {
  max: 1,
  connect_timeout: 10,
  prepare: !POOLED,
  backoff: (retries) => Math.min(0.1 * 2 ** retries, 5),
}

// --- the work: one function for each task of the queue

const TASKS = {
  insert: (sql, job) => sql`INSERT INTO effect (job, attempt) VALUES (${job.id}, ${job.attempt})`,

  async sleep(sql, job) {
    await TASKS.insert(sql, job)
    await pause(job.args.seconds * 1000)
  },

  async fail(sql, job) {
    await TASKS.insert(sql, job)
    throw new Error('failed on purpose')
  },
}

// --- one job

// Claims a job, does it, and commits both. False: there is none.
async function runInTransaction(session) {
  let job
  try {
    await session.sql.begin(
      unlessLost(session, async (sql) => {
        ;[job] = await sql`SELECT * FROM pgq.claim(${QUEUE}, tasks => ${Object.keys(TASKS)})`
        if (job) await TASKS[job.task](sql, job)
      }),
    )
  } catch (error) {
    // When the connection is lost the server has the job back already, and nothing is to be counted.
    if (!job || session.isLost || isLoss(error)) throw error
    await recordFailure(session, job, error)
  }
  return job !== undefined
}

// postgres.js 3.4 ends the process, or never answers again, when a transaction writes to a connection that is lost
// (porsager/postgres#1066), be it with its own COMMIT or ROLLBACK. So what is in such a transaction waits there for
// ever; begin() fails as soon as the connection is closed.
function unlessLost(session, run) {
  const never = new Promise(() => {})
  return async (sql) => {
    try {
      await run((...query) => (session.isLost ? never : sql(...query)))
    } catch (error) {
      if (isLoss(error)) await never
      throw error
    } finally {
      if (session.isLost) await never
    }
  }
}

// Whether a query failed because its connection is gone: by the server's last word, or by the socket's.
function isLoss(error) {
  return error?.severity === 'FATAL' || /^CONN/.test(error?.code) || Boolean(error?.query && error.syscall)
}

// Claims a job with a lease, does it, and completes it. False: there is none.
async function runWithLease(session) {
  const { sql } = session
  const [job] = await sql`
    SELECT * FROM pgq.claim(${QUEUE}, tasks => ${Object.keys(TASKS)}, lease => make_interval(secs => ${LEASE_SECONDS}))`
  if (!job) return false
  const heart = startHeartbeat(job)
  try {
    await TASKS[job.task](sql, job)
  } catch (error) {
    if (session.isLost || isLoss(error)) throw error
    await recordFailure(session, job, error)
    return true
  } finally {
    clearInterval(heart)
  }
  const [{ complete }] = await sql`SELECT pgq.complete(${job.id}, ${job.attempt})`
  if (!complete) console.warn(`job ${job.id}: attempt ${job.attempt} had lost its lease; it is done again`)
  return true
}

// In a transaction of its own: otherwise the failing job would be the next one, at once, for ever.
async function recordFailure({ sql }, job, error) {
  console.warn(`job ${job.id}, attempt ${job.attempt}: ${error}`)
  await sql`SELECT pgq.fail(${job.id}, ${job.attempt}, ${String(error)})`
}

// Extends the lease every third of it, on a connection of its own. Work that computes for long without an await holds
// up the timer too: give that to a worker thread.
const hearts = postgres(process.env.PGQ_DSN, { ...OPTIONS, idle_timeout: 60 })

function startHeartbeat(job) {
  const beat = () =>
    hearts`SELECT pgq.extend(${job.id}, ${job.attempt}, make_interval(secs => ${LEASE_SECONDS}))`.catch((error) =>
      console.warn(`no heartbeat this time: ${error}`),
    )
  return setInterval(beat, (LEASE_SECONDS * 1000) / 3)
}

// --- the loop

let stopping = false
let called = false
let wake = () => {}

// What calls while nobody waits ends the next wait.
function call() {
  called = true
  wake()
}

async function wait(seconds) {
  const timer = setTimeout(call, seconds * 1000)
  if (!called) await new Promise((resolve) => (wake = resolve))
  clearTimeout(timer)
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping = true
    call()
  })
}

// postgres.js listens again by itself, and nobody can catch what that fails with when the connection is lost once more.
process.on('unhandledRejection', (error) => {
  if (!isLoss(error)) throw error
  console.warn(`connection lost: ${error}`)
})

// Its end() may wait for ever for a connection that is just being made.
const close = (sql) => Promise.race([sql.end({ timeout: 1 }), pause(2000)])

// One connection works, and LISTEN has another.
function open() {
  const session = { isLost: false }
  const onclose = () => {
    session.isLost = true
    call()
  }
  session.sql = postgres(process.env.PGQ_DSN, { ...OPTIONS, onclose })
  return session
}

let delay = 0.1

async function work(session) {
  const runOne = WAY === 'lease' ? runWithLease : runInTransaction
  // postgres.js listens again by itself when that connection was lost, and calls: jobs may have come in between.
  if (!POOLED) await session.sql.listen(`pgq_${QUEUE}`, call, call)
  while (!stopping && !session.isLost) {
    called = false
    const found = await runOne(session)
    delay = 0.1
    if (!found && !stopping && !session.isLost) await wait(POLL_SECONDS)
  }
}

while (!stopping) {
  const session = open()
  try {
    await work(session)
  } catch (error) {
    console.warn(`connection lost, next try in ${delay} s: ${error}`)
    called = stopping
    await wait(delay)
    delay = Math.min(2 * delay, 5)
  } finally {
    await close(session.sql)
  }
}
await close(hearts)
process.exit()
