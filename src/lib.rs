//! pgq: a job queue that lives in PostgreSQL.
//!
//! A job's way through the modules: `api::put` → `store::insert` → `pg::at_commit` (wake) →
//! `workers::scheduler` → `workers::executor` → `store::claim` → `pg::function` (run) → `store::finish`.
//! This file holds what PostgreSQL looks up by name: the magic, `_PG_init`, the three workers' mains.

mod api;
mod engine;
mod error;
mod observe;
mod outcome;
mod pg;
mod schema;
mod settings;
mod store;
mod workers;

::pgrx::pg_module_magic!(name, version);

/// Called when the library is loaded: by the postmaster, or by the first session that needs it.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    if pg::bgworker::is_preloading() {
        pg::shmem::request_at_start();
        if !pg::bgworker::is_upgrading() {
            pg::bgworker::start_with_server(&pg::bgworker::LAUNCHER);
        }
    }
}

/// The launcher's main.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgq_launcher_main(_argument: pg::bgworker::Argument) {
    workers::launcher::run();
}

/// A scheduler's main.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgq_scheduler_main(argument: pg::bgworker::Argument) {
    workers::scheduler::run(pg::bgworker::number(argument));
}

/// An executor's main.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgq_executor_main(argument: pg::bgworker::Argument) {
    workers::executor::run(pg::bgworker::number(argument));
}

#[cfg(test)]
pub mod pg_test {
    //! What `cargo pgrx test` asks for.

    /// Called once before the tests.
    pub fn setup(_options: Vec<&str>) {}

    /// The settings of the test server.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'pgq'"]
    }
}
