//! A C library whose functions do to their process what no handler should: built by the tests with
//! the server's own headers, and called by handlers of an ordinary role.

use crate::process;
use postgres::Client;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = r#"
#include "postgres.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(crash_segv);
Datum crash_segv(PG_FUNCTION_ARGS)
{
    volatile int *nowhere = NULL;
    *nowhere = 1;
    PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(crash_abort);
Datum crash_abort(PG_FUNCTION_ARGS) { abort(); }

PG_FUNCTION_INFO_V1(crash_kill);
Datum crash_kill(PG_FUNCTION_ARGS)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

PG_FUNCTION_INFO_V1(crash_fatal);
Datum crash_fatal(PG_FUNCTION_ARGS)
{
    ereport(FATAL, (errmsg("the handler wants to end its worker")));
    PG_RETURN_VOID();
}

/* Past a limit on the memory of the process. */
PG_FUNCTION_INFO_V1(crash_memory);
Datum crash_memory(PG_FUNCTION_ARGS)
{
    struct rlimit before, low;
    getrlimit(RLIMIT_AS, &before);
    low = before;
    low.rlim_cur = (rlim_t) 64 << 20;
    setrlimit(RLIMIT_AS, &low);
    PG_TRY();
    {
        MemoryContextAllocHuge(CurrentMemoryContext, (Size) 3 << 30);
    }
    PG_FINALLY();
    {
        setrlimit(RLIMIT_AS, &before);
    }
    PG_END_TRY();
    PG_RETURN_VOID();
}
"#;

/// The functions of the library, without their prefix `crash_`.
const FUNCTIONS: &[&str] = &["segv", "abort", "kill", "fatal", "memory"];

fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = process::make_directory("c");
        let (source, library) = (directory.join("crash.c"), directory.join("crash.so"));
        std::fs::write(&source, SOURCE).expect("the source can be written");
        let pg_config = std::env::var("PG_CONFIG").unwrap_or("/usr/lib/postgresql/15/bin/pg_config".to_owned());
        let headers = Command::new(pg_config).arg("--includedir-server").output().expect("pg_config is there").stdout;
        let headers = String::from_utf8_lossy(&headers).trim().to_owned();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O0", "-w", "-I", &headers, "-o"]).arg(&library).arg(&source);
        let built = cc.output().expect("a C compiler is installed");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        for path in [&directory, &library] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        library
    })
}

/// Creates the functions, which only a superuser may, and lets everybody call them.
///
/// # Panics
/// When the library cannot be built or the server refuses.
pub fn create(client: &mut Client) {
    for name in FUNCTIONS {
        let sql = format!(
            "CREATE FUNCTION crash_{name}() RETURNS void LANGUAGE c AS '{}', 'crash_{name}'",
            library().display()
        );
        crate::run(client, &sql);
    }
}
