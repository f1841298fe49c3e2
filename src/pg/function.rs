//! Handlers: resolving a registered signature, checking the right to execute it, calling it.
//!
//! fmgr checks no right by itself, and its cached FmgrInfo is not told of ALTER FUNCTION: so both are made anew in
//! each transaction, and what a name means is remembered only until a function, a type or a schema changes. Never FunctionCallNColl: it raises when a
//! function returns NULL, as SQL functions returning void do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::{direct_function_call, pg_sys, IntoDatum};

use super::datum::Flat;
use super::guc::Nest;
use super::{spi, user, xact};

/// What a handler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// ()
    Nothing,
    /// (args jsonb)
    Args,
    /// (id bigint, args jsonb)
    IdArgs,
    /// (job pgq.job)
    Job,
    /// (jobs pgq.job[])
    Jobs,
}

impl Shape {
    /// From the table's word (handler_shape_check).
    pub fn from_word(word: &str) -> Self {
        match word {
            "args" => Shape::Args,
            "id_args" => Shape::IdArgs,
            "job" => Shape::Job,
            "jobs" => Shape::Jobs,
            _ => Shape::Nothing,
        }
    }
}

/// A handler, ready to be called in this transaction.
pub struct Callable {
    oid: pg_sys::Oid,
    returns: pg_sys::Oid,
    shape: Shape,
    info: pg_sys::FmgrInfo,
    /// As whom the result becomes JSON; `None`: as whoever calls.
    result_as: Option<user::Role>,
}

/// One job as a handler gets it.
pub struct Input<'a> {
    /// Its id.
    pub id: i64,
    /// Its args.
    pub args: &'a Flat,
    /// The whole row, with the attempt that is being made.
    pub job: Option<&'a Flat>,
}

/// Room for the largest FunctionCallInfo that we build: header and two arguments.
#[repr(C, align(8))]
struct CallSpace([u8; CALL_BYTES]);
const CALL_BYTES: usize = size_of::<pg_sys::FunctionCallInfoBaseData>() + 2 * size_of::<pg_sys::NullableDatum>();

thread_local! {
    /// Signatures that were looked up, and what they were.
    static FOUND: RefCell<HashMap<String, u32>> = RefCell::default();
    /// False when a function, a type or a schema may have changed since.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// Forgets what was found when a name may mean something else. Of a change that another session committed it is told
/// as soon as this one takes a lock or begins a transaction.
fn watch_names() {
    /// # Safety
    /// Called by inval.c only; it does nothing that can fail.
    unsafe extern "C-unwind" fn changed(_: pg_sys::Datum, _: i32, _: u32) {
        HOLDS.set(false);
    }
    thread_local! {
        static WATCHES: Cell<bool> = const { Cell::new(false) };
    }
    if !WATCHES.replace(true) {
        use pg_sys::SysCacheIdentifier::{NAMESPACEOID, PROCOID, TYPEOID};
        for cache in [PROCOID, TYPEOID, NAMESPACEOID] {
            // SAFETY: a static function, registered once a backend for each.
            unsafe {
                pg_sys::CacheRegisterSyscacheCallback(
                    i32::try_from(cache).unwrap_or(0),
                    Some(changed),
                    pg_sys::Datum::from(0),
                )
            };
        }
    }
}

/// The most that is remembered: an executor has few handlers.
const MOST_FOUND: usize = 1_000;

/// The oid of a fully qualified signature.
pub fn look_up(signature: &str) -> Option<u32> {
    watch_names();
    let known = FOUND.with_borrow_mut(|found| {
        if !HOLDS.get() || found.len() > MOST_FOUND {
            found.clear();
        }
        found.get(signature).copied()
    });
    if known.is_some() {
        return known;
    }
    // Before the search: what changes during it counts as changed.
    HOLDS.set(true);
    let oid = search(signature);
    if let Some(oid) = oid {
        FOUND.with_borrow_mut(|found| found.insert(signature.into(), oid));
    }
    oid
}

fn search(signature: &str) -> Option<u32> {
    // As the owner of our tables and under the pinned search_path: looking up `pgq.job` needs a right on our
    // schema that a handler's role need not have. No code runs here; the right to execute is asked elsewhere.
    let oid: Option<pg_sys::Oid> = user::as_owner(|| {
        // SAFETY: to_regprocedure takes one text and returns NULL for what does not exist.
        unsafe { direct_function_call(pg_sys::to_regprocedure, &[super::text::datum(signature)]) }
    })
    .flatten();
    oid.map(pg_sys::Oid::to_u32)
}

impl Callable {
    /// The function of an oid that `look_up` gave; the right to execute it is the caller's to ask. Raises when its
    /// code cannot be loaded.
    pub fn of(oid: u32, shape: Shape) -> Self {
        let oid = pg_sys::Oid::from(oid);
        let mut info = pg_sys::FmgrInfo::default();
        // SAFETY: an existing function; what fmgr hangs onto the info lives in the current (transaction's) memory.
        let returns = unsafe {
            pg_sys::fmgr_info(oid, &mut info);
            pg_sys::get_func_rettype(oid)
        };
        Callable { oid, returns, shape, info, result_as: None }
    }

    /// Resolves `signature` for the present user. `Err` is the reason why it cannot run.
    pub fn resolve(signature: &str, shape: Shape) -> Result<Self, String> {
        let Some(oid) = look_up(signature) else {
            return Err(format!("function {signature} does not exist"));
        };
        if !may_execute(pg_sys::Oid::from(oid)) {
            return Err(format!("permission denied for function {signature}"));
        }
        Ok(Self::of(oid, shape))
    }

    /// Turns the result into JSON as `role`: to_jsonb calls the casts of the result's type, which are the code of the
    /// type's owner, with the rights of whoever called a SECURITY DEFINER function.
    pub fn result_as(self, role: user::Role) -> Self {
        Callable { result_as: Some(role), ..self }
    }

    /// Calls it for one job, as a command of its own, and takes back the settings it changed. With
    /// `keep_result` the result comes back as jsonb.
    pub fn call(&mut self, input: &Input<'_>, keep_result: bool) -> Option<Flat> {
        let given = match self.shape {
            Shape::Nothing => [None, None],
            Shape::Args => [Some(input.args.datum()), None],
            Shape::IdArgs => [input.id.into_datum(), Some(input.args.datum())],
            Shape::Job => [input.job.map(Flat::datum), None],
            Shape::Jobs => [input.job.and_then(|job| spi::job_array(&[job])), None],
        };
        self.command(given, keep_result)
    }

    /// The same for a function that takes a set: with the whole rows, as an array in the current context. Raises 54000
    /// where they do not fit into one.
    pub fn call_set(&mut self, jobs: &[&Flat]) {
        self.command([spi::job_array(jobs), None], false);
    }

    fn command(&mut self, given: [Option<pg_sys::Datum>; 2], keep_result: bool) -> Option<Flat> {
        xact::command(|| {
            let nest = Nest::open();
            let result = self.invoke(given);
            let kept = if keep_result { result.and_then(|r| self.to_jsonb(r)) } else { None };
            nest.close();
            kept
        })
    }

    fn invoke(&mut self, given: [Option<pg_sys::Datum>; 2]) -> Option<pg_sys::Datum> {
        let mut space = CallSpace([0; CALL_BYTES]);
        let call: pg_sys::FunctionCallInfo = (&raw mut space).cast();
        // SAFETY: the space is zeroed and large enough for two arguments; the info belongs to this transaction; the
        // arguments live in what our caller was given. fn_addr is called through pgrx's boundary, so an ERROR becomes a panic here.
        unsafe {
            (*call).flinfo = &mut self.info;
            let arguments = (*call).args.as_mut_ptr();
            let mut count = 0;
            for (n, datum) in given.into_iter().enumerate() {
                if let Some(value) = datum {
                    *arguments.add(n) = pg_sys::NullableDatum { value, isnull: false };
                    count += 1;
                }
            }
            (*call).nargs = count;
            let function = self.info.fn_addr?;
            let result = pg_sys::ffi::pg_guard_ffi_boundary(|| function(call));
            (!(*call).isnull && self.returns != pg_sys::VOIDOID).then_some(result)
        }
    }

    fn to_jsonb(&self, result: pg_sys::Datum) -> Option<Flat> {
        if self.returns == pg_sys::RECORDOID {
            return None;
        }
        match self.result_as {
            Some(role) => user::restricted_to(role, || to_jsonb(result, self.returns)),
            None => to_jsonb(result, self.returns),
        }
    }

    /// The function's oid.
    pub fn oid(&self) -> u32 {
        self.oid.to_u32()
    }
}

/// Any value as jsonb, by PostgreSQL's to_jsonb: a polymorphic function learns its type from the call's expression.
fn to_jsonb(value: pg_sys::Datum, kind: pg_sys::Oid) -> Option<Flat> {
    // SAFETY: the expression is one Const of the value's type, alive during the call; the result is copied.
    unsafe {
        let mut info = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(pg_sys::Oid::from(TO_JSONB), &mut info);
        let mut length = 0_i16;
        let mut by_value = false;
        pg_sys::get_typlenbyval(kind, &mut length, &mut by_value);
        let constant = pg_sys::makeConst(kind, -1, pg_sys::InvalidOid, i32::from(length), value, false, by_value);
        let arguments = pg_sys::lappend(std::ptr::null_mut(), constant.cast());
        let expression = pg_sys::makeFuncExpr(
            pg_sys::Oid::from(TO_JSONB),
            pg_sys::JSONBOID,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        info.fn_expr = expression.cast();
        let mut space = CallSpace([0; CALL_BYTES]);
        let call: pg_sys::FunctionCallInfo = (&raw mut space).cast();
        (*call).flinfo = &mut info;
        (*call).nargs = 1;
        *(*call).args.as_mut_ptr() = pg_sys::NullableDatum { value, isnull: false };
        let function = info.fn_addr?;
        let result = pg_sys::ffi::pg_guard_ffi_boundary(|| function(call));
        pgrx::FromDatum::from_polymorphic_datum(result, (*call).isnull, pg_sys::JSONBOID)
    }
}

/// The oid of to_jsonb(anyelement), fixed in pg_proc.dat since 9.5.
const TO_JSONB: u32 = 3787;

fn may_execute(oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction, for the present user.
    unsafe {
        let mode = pg_sys::AclMode::from(pg_sys::ACL_EXECUTE);
        #[cfg(feature = "pg15")]
        let result = pg_sys::pg_proc_aclcheck(oid, pg_sys::GetUserId(), mode);
        #[cfg(not(feature = "pg15"))]
        let result = pg_sys::object_aclcheck(pg_sys::ProcedureRelationId, oid, pg_sys::GetUserId(), mode);
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}
