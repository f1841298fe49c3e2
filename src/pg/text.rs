//! text as an argument and as a result of our SQL functions, in whatever encoding the database has: pgrx's own
//! conversions to `&str` panic at a letter beyond ASCII in a LATIN1 database.

use std::ops::Deref;

use pgrx::callconv::{Arg as PgArg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::UnboxDatum;
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{datum::Datum as PgDatum, pg_sys, FromDatum, IntoDatum};

use super::encoding;

/// A text, as `encoding` carries it.
#[derive(Clone, Debug)]
pub struct Text(pub String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(text)
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: not null, and Text is only asked for where the SQL type is text.
        (!is_null).then(|| unsafe { Text::read(datum) })
    }
}

impl Text {
    /// # Safety
    /// `datum` must be a not-null text (short, compressed and external included).
    unsafe fn read(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise; pg_detoast_datum_packed returns the value itself or a palloc'd plain copy, which
        // is read before it is freed.
        unsafe {
            let given: *mut pg_sys::varlena = datum.cast_mut_ptr();
            let plain = pg_sys::pg_detoast_datum_packed(given);
            let start = pgrx::vardata_any(plain).cast::<u8>();
            let text = Text(encoding::from_server(std::slice::from_raw_parts(start, pgrx::varsize_any_exhdr(plain))));
            if plain != given {
                pg_sys::pfree(plain.cast());
            }
            text
        }
    }
}

// SAFETY: as from_polymorphic_datum, for a datum that is not null.
unsafe impl UnboxDatum for Text {
    type As<'src> = Text;

    unsafe fn unbox<'src>(datum: PgDatum<'src>) -> Self::As<'src>
    where
        Self: 'src,
    {
        // SAFETY: the caller's promise.
        unsafe { Text::read(datum.sans_lifetime()) }
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        datum(&self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

/// A text Datum in the current memory context: bytea is the same varlena.
pub(super) fn datum(text: &str) -> Option<pg_sys::Datum> {
    encoding::to_server(text).as_ref().into_datum()
}

// SAFETY: unboxing copies the argument (from_datum); a null never reaches it but through Option.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: PgArg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declarations give Text only to text, as Option<Text>, so null was looked at.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| Text(String::new()))
    }

    unsafe fn unbox_nullable_arg(arg: PgArg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: the Datum returned is a palloc'd copy in the caller's context.
unsafe impl BoxRet for Text {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> PgDatum<'fcx> {
        match self.into_datum() {
            // SAFETY: see above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: only pgrx's generator reads this; our functions are declared in sql/schema/functions.sql.
unsafe impl SqlTranslatable for Text {
    const TYPE_IDENT: &'static str = "pgq::pg::text::Text";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
}
