// A worker for one queue, with node-pg: `node worker.js`.
//
// Two ways to claim, PGQ_WAY:
//
// transaction  Claim, work and COMMIT are one transaction: what the work does on this connection happens exactly
//              once. A job that kills the worker (out of memory, a segfault) is back at once and nothing is counted,
//              so it can kill one worker after the other, for ever.
// lease        The claim commits at once; the job is done again if this worker does not complete it while the lease
//              lasts: at least once. A job that kills the worker is back when its lease ends, a failure is counted,
//              and at max_attempts the job is dead. For long work, and for work that is not in the database.

import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'

const QUEUE = process.env.PGQ_QUEUE
const WAY = process.env.PGQ_WAY ?? 'transaction'
const LEASE_SECONDS = Number(process.env.PGQ_LEASE_SECONDS ?? 30)
// For what no notification tells: jobs whose notification was lost with a connection.
const POLL_SECONDS = Number(process.env.PGQ_POLL_SECONDS ?? 30)
// Behind a pooler in transaction mode LISTEN does not last.
const POOLED = process.env.PGQ_POOLED === '1'

const OPTIONS = { connectionString: process.env.PGQ_DSN, connectionTimeoutMillis: 10_000, keepAlive: true }

// --- the work: one function for each task of the queue

const TASKS = {
  insert: (client, job) => client.query('INSERT INTO effect (job, attempt) VALUES ($1, $2)', [job.id, job.attempt]),

  async sleep(client, job) {
    await TASKS.insert(client, job)
    await pause(job.args.seconds * 1000)
  },

  async fail(client, job) {
    await TASKS.insert(client, job)
    throw new Error('failed on purpose')
  },
}

// --- one job

// Claims a job, does it, and commits both. False: there is none.
async function runInTransaction(client) {
  let job
  await client.query('BEGIN')
  try {
    job = await first(client, 'SELECT * FROM pgq.claim($1, tasks => $2)', [QUEUE, Object.keys(TASKS)])
    if (job) await TASKS[job.task](client, job)
    await client.query('COMMIT')
  } catch (error) {
    // Fails when the connection is lost: then the server has the job back already, and nothing is to be counted.
    await client.query('ROLLBACK')
    if (!job) throw error
    await recordFailure(client, job, error)
  }
  return job !== undefined
}

// Claims a job with a lease, does it, and completes it. False: there is none.
async function runWithLease(client) {
  const claim = 'SELECT * FROM pgq.claim($1, tasks => $2, lease => make_interval(secs => $3))'
  const job = await first(client, claim, [QUEUE, Object.keys(TASKS), LEASE_SECONDS])
  if (!job) return false
  const heart = startHeartbeat(job)
  try {
    await TASKS[job.task](client, job)
  } catch (error) {
    await recordFailure(client, job, error)
    return true
  } finally {
    clearInterval(heart)
  }
  const { complete } = await first(client, 'SELECT pgq.complete($1, $2)', [job.id, job.attempt])
  if (!complete) console.warn(`job ${job.id}: attempt ${job.attempt} had lost its lease; it is done again`)
  return true
}

// In a transaction of its own: otherwise the failing job would be the next one, at once, for ever.
async function recordFailure(client, job, error) {
  console.warn(`job ${job.id}, attempt ${job.attempt}: ${error}`)
  await client.query('SELECT pgq.fail($1, $2, $3)', [job.id, job.attempt, String(error)])
}

// Extends the lease every third of it, on a connection of its own. Work that computes for long without an await holds
// up the timer too: give that to a worker thread.
function startHeartbeat(job) {
  const beat = () =>
    hearts
      .query('SELECT pgq.extend($1, $2, make_interval(secs => $3))', [job.id, job.attempt, LEASE_SECONDS])
      .catch((error) => console.warn(`no heartbeat this time: ${error}`))
  return setInterval(beat, (LEASE_SECONDS * 1000) / 3)
}

const hearts = new pg.Pool({ ...OPTIONS, max: 1 })
hearts.on('error', () => {}) // an idle connection was lost: the next heartbeat makes another

async function first(client, text, values) {
  const { rows } = await client.query(text, values)
  return rows[0]
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

async function work(client) {
  const runOne = WAY === 'lease' ? runWithLease : runInTransaction
  client.on('notification', call)
  if (!POOLED) await client.query(`LISTEN ${pg.escapeIdentifier(`pgq_${QUEUE}`)}`)
  while (!stopping) {
    called = false
    if (await runOne(client)) continue
    if (!stopping) await wait(POLL_SECONDS)
  }
}

let delay = 0.1
while (!stopping) {
  const client = new pg.Client(OPTIONS)
  client.on('error', call) // lost while it waits: the next claim says so
  try {
    await client.connect()
    delay = 0.1
    await work(client)
  } catch (error) {
    console.warn(`connection lost, next try in ${delay} s: ${error}`)
    called = stopping
    await wait(delay)
    delay = Math.min(2 * delay, 5)
  } finally {
    await client.end().catch(() => {})
  }
}
await hearts.end()
