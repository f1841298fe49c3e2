//! The unit tests of src/engine, run without a server: the engine knows no PostgreSQL, so it compiles here
//! as it is.

// What the extension uses of the engine is not used here.
#[allow(dead_code, unused_imports, clippy::all)]
#[path = "../src/engine/mod.rs"]
mod engine;
