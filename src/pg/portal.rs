//! CALL of a procedure that may COMMIT: through a top-level portal, the way a client's query goes.
//!
//! SPI cannot do this ("cannot execute SQL without an outer snapshot or portal"). The text is
//! `CALL schema.name($1)`, its parameters are values, never text. Parse, analyze and plan under a
//! snapshot, pop it, and run the portal with nothing of ours active (tcop/postgres.c, exec_simple_query).

use std::ffi::CStr;

use pgrx::pg_sys;

use super::function::Input;
use super::function::Shape;
use super::xact;

/// Runs `call` non-atomically in the transaction that is open; when it returns, a transaction is open again.
/// `input` must live outside any transaction's memory: it is Rust's.
pub fn call(call: &CStr, shape: Shape, input: &Input<'_>) {
    let (kinds, values) = parameters(shape, input);
    // SAFETY: the sequence of exec_simple_query. The portal owns the plan; parameters are in PortalContext's
    // parent TopMemoryContext-like storage below, freed at the end or by the caller's scratch context.
    unsafe {
        let count = i32::try_from(kinds.len()).unwrap_or(0);
        let raw = pg_sys::pg_parse_query(call.as_ptr());
        let statement: *mut pg_sys::RawStmt = pg_sys::list_nth(raw, 0).cast();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let analyzed = pg_sys::pg_analyze_and_rewrite_fixedparams(
            statement,
            call.as_ptr(),
            kinds.as_ptr(),
            count,
            std::ptr::null_mut(),
        );
        let parallel = i32::try_from(pg_sys::CURSOR_OPT_PARALLEL_OK).unwrap_or(0);
        let planned = pg_sys::pg_plan_queries(analyzed, call.as_ptr(), parallel, std::ptr::null_mut());
        pg_sys::PopActiveSnapshot();
        let list = parameter_list(&kinds, &values);
        let portal = pg_sys::CreatePortal(c"".as_ptr(), true, true);
        (*portal).visible = false;
        // The statements must outlive the procedure's COMMITs, which free the transaction's memory.
        let old = pg_sys::MemoryContextSwitchTo((*portal).portalContext);
        let planned: *mut pg_sys::List = pg_sys::copyObjectImpl(planned.cast()).cast();
        pg_sys::MemoryContextSwitchTo(old);
        pg_sys::PortalDefineQuery(
            portal,
            std::ptr::null(),
            call.as_ptr(),
            pg_sys::CommandTag::CMDTAG_CALL,
            planned,
            std::ptr::null_mut(),
        );
        pg_sys::PortalStart(portal, list, 0, std::ptr::null_mut());
        let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        let mut completion = pg_sys::QueryCompletion::default();
        #[cfg(not(feature = "pg18"))]
        pg_sys::PortalRun(portal, i64::MAX, true, true, receiver, receiver, &mut completion);
        #[cfg(feature = "pg18")]
        pg_sys::PortalRun(portal, i64::MAX, true, receiver, receiver, &mut completion);
        pg_sys::PortalDrop(portal, false);
    }
    xact::check_interrupts();
}

fn parameters(shape: Shape, input: &Input<'_>) -> (Vec<pg_sys::Oid>, Vec<pg_sys::Datum>) {
    match shape {
        Shape::Nothing => (Vec::new(), Vec::new()),
        Shape::Args => (vec![pg_sys::JSONBOID], vec![input.args.datum()]),
        Shape::IdArgs => {
            (vec![pg_sys::INT8OID, pg_sys::JSONBOID], vec![pg_sys::Datum::from(input.id), input.args.datum()])
        }
        // No procedure takes a set: `register` refuses it, and so does the handler table.
        Shape::Jobs => (Vec::new(), Vec::new()),
        Shape::Job => input.job.map_or((Vec::new(), Vec::new()), |job| (vec![job.row_type()], vec![job.datum()])),
    }
}

/// # Safety
/// The list is made in the current context, which must outlive the portal's run: the executor's scratch context.
unsafe fn parameter_list(kinds: &[pg_sys::Oid], values: &[pg_sys::Datum]) -> pg_sys::ParamListInfo {
    let count = i32::try_from(kinds.len()).unwrap_or(0);
    // SAFETY: makeParamList gives room for `count` parameters, all of which are set here.
    unsafe {
        let list = pg_sys::makeParamList(count);
        let params = (*list).params.as_mut_ptr();
        for (n, (kind, value)) in kinds.iter().zip(values).enumerate() {
            *params.add(n) = pg_sys::ParamExternData {
                value: *value,
                isnull: false,
                pflags: u16::try_from(pg_sys::PARAM_FLAG_CONST).unwrap_or(1),
                ptype: *kind,
            };
        }
        list
    }
}
