/* How a committed put reaches a handler, as a model that spin searches through: in no reachable state does a visible job
 * sleep with nobody on the way to it. tests/model/check runs it; src/workers/README.md tells the same in prose.
 *
 * One database, one role, one handler with one executor. What is exact: the order of the reads and writes of shared
 * memory, each a step of its own between which all others run. What is left out: time (a timer that is no poll is a
 * free choice at the worst moment: leaving comes right after the look, a turn ends whenever it likes), delayed jobs
 * (their put wakes in the same way, and a wait is cut to the next due time), NOTIFY, DROP of anything, a switched-off
 * pgq, the freeing and remaking of a database's entry, an abort (it tells nobody: the poll is there for it).
 *
 *   model                       source
 *   Producer, ask_scheduler     pg/at_commit.rs finish, call; pg/place.rs wake, call (xact.c runs the
 *                               callback after ProcArrayEndTransaction, so after the job is visible)
 *   Outside                     api/claim.rs: a client's claim without lease, committed
 *   Launcher  boot … rest       workers/launcher.rs run, look, needed, start
 *   Scheduler boot              workers/scheduler.rs run; Place::occupy
 *             top, look         Scheduler::work: latch::reset, take_wake, look
 *             staff             park_the_absent, staff, pools, wake_idle, start; engine/plan.rs orders
 *             rest              Scheduler::rest (the flag set again: another look after 20 ms at most)
 *             publish, leave    publish; leave, the exit callback: every way out but SIGKILL
 *   Executor  boot … rest       workers/executor.rs run, Worker::work, turns; workers/batch.rs run_functions
 *             leave             leave, after ShutdownPostgres rolled the transaction back
 *   sch_number, latch[]         PGPROC numbers: the next scheduler has another one, and a latch of its own
 *
 * A death is a free choice between two steps, DEATHS in all. A producer that dies after its job became visible stands
 * for COMMIT PREPARED, an apply worker and rows written by hand too: they tell nobody. SIGKILL ends all processes and
 * empties shared memory: that is the second initial state, with a job already there.
 *
 *   -DPOLL           timers fire, all of them, when nobody can take a step: the scheduler's poll_interval, the
 *                    launcher's 60 s and its 10 s for a scheduler that never came, the scheduler's 10 s for an
 *                    executor, the executor's idle_timeout. Without it none ever fires that could find a job.
 *   -DDEATHS=n -DPUTS=n -DLEAVES=n (voluntary leaves; without a number, any)
 *   -DNO_EXECUTOR    half of the model: what a look finds is done
 *   -DNO_LAUNCHER    the other half: one scheduler, which stays and lives
 *   -DOUTSIDE        with a client that claims
 *   -DLATCH_FIRST -DTAKE_AFTER_LOOK -DNO_SECOND_LOOK -DBUSY_IS_RUNNING -DNOTE_AFTER_PLACE -DNOT_ADOPTED
 *   -DCALL_FIRST -DLEAVE_SILENTLY
 *                    faults, each at its place below, that the search must find
 */
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef PUTS
#define PUTS 3
#endif

#define NEVER 2          /* due: no moment at which a scheduler must be there */
#define LATER 1          /*      in a minute: only a poll comes to that */
#define NOW   0

#define ASKED  1
#define CALLED 2

mtype = { FREE, STARTING, IDLE, BUSY };

byte ready;              /* committed, and nobody has it */
byte taken;              /* deleted by the executor's transaction: snapshots still see it */

bool lau_here, lau_flag, lau_latch;

bool sch_here, sch_flag; /* Database.scheduler: pid, wake */
byte sch_number;         /*                     number */
bool latch[3];           /* of the schedulers' processes 1 and 2 */
byte due;                /* Database.due */
bool starting;           /* Database.starting_since */
byte sch_asked;          /* registered background workers that have not begun */

mtype exe_state;         /* Executor.state */
bool exe_job;            /* Executor.job: shows one */
byte exe_flag;           /*          place.wake: ASKED, or CALLED by a producer, who then asks nobody else */
bool exe_here, exe_latch;
bool exe_asked;

bool second, minute, idle;   /* the timers of scheduler, launcher and executor have fired: set by Watch */
byte deaths, leaves;
byte begun;              /* producers whose job became visible, or never will */

#ifdef LEAVES
#define MAY_LEAVE leaves < LEAVES -> leaves++;
#else
#define MAY_LEAVE true ->
#endif
#if DEATHS > 0
#define MAY_DIE(way_out) if :: atomic { deaths < DEATHS -> deaths++; goto way_out } :: true fi;
#else
#define MAY_DIE(way_out)
#endif
#ifdef NO_LAUNCHER
#define SCH_DIES(way_out)
#else
#define SCH_DIES(way_out) MAY_DIE(way_out)
#endif

/* Place::wake for the launcher. Its number never changes while it lives. */
inline ask_launcher(first, there) {
    atomic { first = !lau_flag; lau_flag = true }
    there = lau_here;
    if :: there && first -> lau_latch = true :: else fi
}

/* Place::wake for the scheduler; `number` is zero where there is none. */
inline ask_scheduler(first, number) {
    atomic { first = !sch_flag; sch_flag = true }
    number = sch_number;
    if :: number > 0 && first -> latch[number] = true :: else fi
}

/* call_idle_of: a put of one job calls the idle executor of its queue, and if it is the first to ask, nobody else. */
inline call_executor(first, called) {
    if
    :: exe_state == IDLE ->
        atomic { first = exe_flag == 0; exe_flag = (first -> CALLED : exe_flag) }
        if :: first && exe_here -> exe_latch = true; called = true :: else fi
    :: else
    fi
}

proctype Producer(byte me) {
    bool first, called; byte number;
    /* ProcArrayEndTransaction; a death before it is the server's restart. In turn: they are all alike. */
#ifdef CALL_FIRST
    begun == me;
    call_executor(first, called);
    atomic { ready++; begun++ }
#else
    atomic { begun == me -> ready++; begun++ }
    MAY_DIE(dead)
#ifndef NO_EXECUTOR
    call_executor(first, called);
    MAY_DIE(dead)
#endif
#endif
    if :: called -> goto dead :: else fi;
#ifdef LATCH_FIRST
    number = sch_number;
    first = !sch_flag;
    if :: number > 0 && first -> latch[number] = true :: else fi;
    MAY_DIE(dead)
    sch_flag = true;
#else
    atomic { first = !sch_flag; sch_flag = true }
    MAY_DIE(dead)
    number = sch_number;
    MAY_DIE(dead)
    if :: number > 0 && first -> latch[number] = true :: else fi;
#endif
    MAY_DIE(dead)
    if
    :: number == 0 ->
        atomic { first = !lau_flag; lau_flag = true }
        MAY_DIE(dead)
        number = lau_here;
        if :: number && first -> lau_latch = true :: else fi
    :: else
    fi;
dead:
    skip
}

proctype Outside() {
    do
    :: atomic { ready > 0 -> ready-- } break
    :: true -> break
    od
}

proctype Launcher() {
    bool note, tick;
boot:
    lau_here = true;                       /* occupy */
top:
    lau_latch = false;                     /* reset the latch */
    lau_flag = false;                      /* take the flag back */
    MAY_DIE(leave)
look:
#ifdef NOTE_AFTER_PLACE
    if :: sch_here -> starting = false; goto rest :: else fi;
    note = starting;
#else
    note = starting;                       /* needed: the note first, then the place */
    if :: sch_here -> starting = false; goto rest :: else fi;
#endif
    if
    :: !note && (due == NOW || sch_flag)
    :: tick                                /* LOOK_EVERY has passed, or START_LIMIT */
    :: else -> goto rest
    fi;
    starting = true;                       /* start */
    due = LATER;
    MAY_DIE(leave)
    sch_flag = false;
    sch_asked++;                           /* RegisterDynamicBackgroundWorker */
rest:
    MAY_DIE(leave)
    tick = false;
end_rest:
    if
    :: lau_latch -> goto top
    :: minute -> atomic { minute = false; tick = true } goto top
    fi;
leave:
    lau_here = false; minute = false;
    goto boot                              /* restart time 1 s */
}

proctype Scheduler(byte me) {
    bool first, there, tick; byte seen;
end_boot:
    atomic { sch_asked > 0 -> sch_asked-- }
    SCH_DIES(end_boot)                     /* before its exit callback is there */
    if                                     /* occupy: compare and swap of the pid … */
    :: atomic { !sch_here -> sch_here = true }
    :: sch_here -> goto vacated
    fi;
    SCH_DIES(leave)
    sch_number = me;                       /* … then the number */
    SCH_DIES(leave)                        /* connects */
    due = NOW;
top:
    SCH_DIES(leave)
    latch[me] = false;                     /* reset the latch */
#ifndef TAKE_AFTER_LOOK
    SCH_DIES(leave)
    sch_flag = false;                      /* take the flag back */
#endif
    SCH_DIES(leave)
look:
    seen = ready + taken;                  /* registry::runnable: of rows that somebody deletes it sees the old */
    SCH_DIES(leave)
#ifdef TAKE_AFTER_LOOK
    sch_flag = false;
    SCH_DIES(leave)
#endif
staff:
#if defined(POLL) && !defined(NOT_ADOPTED)
    if                                     /* ARRIVAL has passed: park_the_absent */
    :: atomic { tick && exe_state == STARTING && !exe_asked && !exe_here -> exe_state = FREE }
    :: else
    fi;
#endif
    tick = false;
    if
    :: seen > 0 ->
#ifdef NO_EXECUTOR
        ready = ready - seen               /* found: the rest is the other part's */
#else
        if
#ifdef BUSY_IS_RUNNING                     /* who is BUSY counts as running one of the ready jobs, at its limit of one */
        :: exe_state == BUSY
#else                                      /* only who shows a job does; the others are asked to look */
        :: exe_state == BUSY && exe_job
#endif
        :: exe_state == STARTING           /* will look when it is there */
#ifdef BUSY_IS_RUNNING
        :: exe_state == IDLE ->
#else
        :: exe_state == IDLE || (exe_state == BUSY && !exe_job) ->
#endif
            atomic { first = exe_flag == 0; exe_flag = ASKED }
            SCH_DIES(leave)
            if :: first && exe_here -> exe_latch = true :: else fi
        :: atomic { exe_state == FREE -> exe_state = STARTING; exe_flag = 0 } /* reserve, under the lock */
            SCH_DIES(leave)
            exe_asked = true
        fi
#endif
    :: else ->
        if
#ifndef NO_LAUNCHER
        :: atomic { exe_state == FREE && MAY_LEAVE goto publish } /* idle_timeout has passed */
#endif
        :: true
        fi
    fi;
rest:
    SCH_DIES(leave)
    if :: sch_flag -> goto top :: else fi;
end_rest:
    if
    :: latch[me] -> goto top
    :: second -> atomic { second = false; tick = true } goto top   /* poll_interval */
    :: ready + taken == 0 -> goto top      /* idle_timeout */
    fi;
publish:
    due = NEVER;
leave:
#ifndef NOTE_AFTER_PLACE
    starting = false;
#endif
    if :: sch_number == me -> sch_number = 0 :: else fi;
    sch_here = false; second = false;      /* vacate */
vacated:
#ifdef NOTE_AFTER_PLACE
    starting = false;
#endif
#ifndef NO_SECOND_LOOK
    if
    :: sch_flag || due == NOW -> ask_launcher(first, there)
    :: else
    fi;
#else
    if
    :: due == NOW -> ask_launcher(first, there)
    :: else
    fi;
#endif
    goto end_boot
}

proctype Executor() {
    bool first, worked, called, there; byte number;
end_boot:
    exe_asked;
    exe_asked = false;
    exe_here = true;                       /* occupy */
top:
    MAY_DIE(leave)
    exe_latch = false;                     /* reset the latch */
    MAY_DIE(leave)
    atomic { called = exe_flag == CALLED; exe_flag = 0 }   /* take the flag back */
    exe_state = IDLE;
    worked = false;
    MAY_DIE(leave)
look:
    if :: ready + taken > 0 :: else -> goto nothing fi;
    exe_state = BUSY;                      /* Shared::begin */
claim:
    MAY_DIE(leave)
    if
    :: atomic { ready > 0 -> ready--; taken++ }
        exe_job = true;                    /* show */
        MAY_DIE(leave)
        taken--;                           /* commit: the row and its effects */
        worked = true;
        exe_job = false;                   /* clear_job */
        if :: goto claim :: true fi        /* until the turn's time is over */
    :: ready == 0
    fi;
    exe_state = IDLE;
    if :: worked -> goto top :: else fi;
nothing:
    if :: called -> ask_scheduler(first, number) :: else fi;   /* what it was called for is not its */
    called = false;
    MAY_DIE(leave)
    if :: exe_flag != 0 -> goto top :: else fi;
    if :: atomic { MAY_LEAVE goto leave } :: true fi; /* idle_timeout has passed */
end_rest:
    if
    :: exe_latch -> goto top
    :: idle -> idle = false                /* idle_timeout; it looked when it lay down */
    :: ready + taken == 0 -> goto top      /* as well */
    fi;
leave:
    atomic { ready = ready + taken; taken = 0 }   /* ShutdownPostgres rolls back */
    exe_here = false; idle = false;
    atomic { exe_job = false; exe_flag = 0; exe_state = FREE }   /* under the lock */
    called = false;
#ifndef LEAVE_SILENTLY
    ask_scheduler(first, number);
    if :: number == 0 -> ask_launcher(first, there) :: else fi;
#endif
    goto end_boot
}

/* Nobody can take a step any more: every process sleeps. Then no job may be waiting; with POLL, none that the next
 * timers do not bring to its handler. The scheduler's second is over before the launcher's minute. */
proctype Watch() {
    byte polls;
again:
    timeout;
    if
    :: ready + taken == 0
    :: else ->
#ifdef POLL
        assert(polls < 2);
        polls++;
        atomic { second = sch_here; minute = lau_here; idle = exe_here }
        goto again
#else
        assert(false)
#endif
    fi
}

init {
    byte n;
    atomic {
        exe_state = FREE;
        if
        :: due = NEVER                     /* a database that has been idle for long */
        :: due = NOW; ready = 1            /* the server has just started, after a crash perhaps */
        fi;
        run Scheduler(1);
#ifdef NO_LAUNCHER
        sch_asked = 1;
#else
        run Scheduler(2);
        run Launcher();
#endif
#ifndef NO_EXECUTOR
        run Executor();
#endif
#ifdef OUTSIDE
        run Outside();
#endif
        for (n : 0 .. PUTS - 1) { run Producer(n) }
        run Watch()
    }
}
