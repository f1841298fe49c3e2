//! Values that pass through us unread: jsonb, arrays, rows. Copied out of PostgreSQL's memory as they
//! are, so that a number like 1e400 or 0.10 comes out as it went in, and nothing dangles.

use super::encoding;
use pgrx::callconv::{Arg as PgArg, ArgAbi, BoxRet, FcInfo};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{datum::Datum as PgDatum, pg_sys, FromDatum, IntoDatum};

/// A variable-length value, detoasted and copied. Aligned to 8 bytes, because PostgreSQL reads it in place.
#[derive(Clone)]
pub struct Flat(Box<[u64]>, usize);

impl std::fmt::Debug for Flat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the content: args may be secret and errors are printed.
        write!(f, "Flat({} bytes)", self.1)
    }
}

impl Flat {
    /// The value's size in bytes, header included.
    pub fn len(&self) -> usize {
        self.1
    }

    /// The value as a Datum that points into this copy: valid as long as `self`, and never written to.
    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.as_ptr())
    }

    /// jsonb from its text, by PostgreSQL's own parser. Raises 22P02 for what is no JSON.
    pub fn jsonb(text: &str) -> Option<Self> {
        let text = encoding::to_server_c(text)?;
        // SAFETY: jsonb_in takes a C string that outlives the call; from_datum copies the result.
        unsafe {
            let datum = pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text.as_ptr().into())])?;
            Flat::from_polymorphic_datum(datum, false, pg_sys::JSONBOID)
        }
    }

    /// jsonb as text.
    pub fn json_text(&self) -> String {
        // SAFETY: self holds a jsonb (the callers' type); jsonb_out returns a palloc'd C string.
        unsafe {
            match pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(self.datum())]) {
                Some(out) => encoding::from_server_c(std::ffi::CStr::from_ptr(out.cast_mut_ptr())),
                None => String::new(),
            }
        }
    }

    /// For a jsonb array of objects: what element `number` (from 0) has under `key`.
    pub fn member(&self, number: usize, key: &std::ffi::CStr) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        let length = i32::try_from(key.count_bytes()).ok()?;
        // SAFETY: self holds a jsonb array (the callers' type and shape). What jsonb_util.c makes points into it until
        // JsonbValueToJsonb has made a value of its own; null is an element or a key that is not there.
        unsafe {
            let whole: *mut pg_sys::Jsonb = self.datum().cast_mut_ptr();
            let element = pg_sys::getIthJsonbValueFromContainer(&raw mut (*whole).root, number);
            if element.is_null() || (*element).type_ != pg_sys::jbvType::jbvBinary {
                return None;
            }
            let object = (*element).val.binary.data;
            let found = pg_sys::getKeyJsonValueFromContainer(object, key.as_ptr(), length, std::ptr::null_mut());
            pg_sys::pfree(element.cast());
            if found.is_null() {
                return None;
            }
            let made = pg_sys::JsonbValueToJsonb(found);
            let copy = Flat::copy(pg_sys::Datum::from(made));
            pg_sys::pfree(made.cast());
            pg_sys::pfree(found.cast());
            Some(copy)
        }
    }

    /// For a row value: its type's oid, as its header says.
    pub fn row_type(&self) -> pg_sys::Oid {
        let header: *const pg_sys::HeapTupleHeaderData = self.0.as_ptr().cast();
        // SAFETY: rows come from SPI as composite datums, whose header carries t_datum (htup_details.h).
        unsafe { (*header).t_choice.t_datum.datum_typeid }
    }

    /// For a row value: a copy whose int column `number` (from 1) is `value`.
    pub fn with_int(&self, number: usize, value: i32) -> Self {
        // SAFETY: the row's own descriptor is looked up from its header, the arrays have its length, and the
        // copy is flat because every attribute is.
        unsafe {
            let header: pg_sys::HeapTupleHeader = self.0.as_ptr().cast_mut().cast();
            let desc = pg_sys::lookup_rowtype_tupdesc(self.row_type(), (*header).t_choice.t_datum.datum_typmod);
            let count = usize::try_from((*desc).natts).unwrap_or(0);
            let mut tuple = pg_sys::HeapTupleData {
                t_len: u32::try_from(self.1).unwrap_or(0),
                t_data: header,
                ..Default::default()
            };
            let mut values = vec![pg_sys::Datum::null(); count];
            let mut nulls = vec![false; count];
            pg_sys::heap_deform_tuple(&mut tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            values[number - 1] = pg_sys::Datum::from(value);
            nulls[number - 1] = false;
            let made = pg_sys::heap_form_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            let datum = pg_sys::heap_copy_tuple_as_datum(made, desc);
            if (*desc).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(desc);
            }
            let copy = Flat::copy(datum);
            pg_sys::heap_freetuple(made);
            copy
        }
    }

    /// For a row value: its column `number` (from 1), `None` for NULL. Valid as long as the row is.
    pub(super) fn column(&self, number: usize) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: a row value carries its type; the datum points into it (GetAttributeByNum, execUtils.c).
        let datum = unsafe {
            let header: pg_sys::HeapTupleHeader = self.0.as_ptr().cast_mut().cast();
            pg_sys::GetAttributeByNum(header, i16::try_from(number).unwrap_or(0), &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// A row as a value of its table's type, large values included.
    ///
    /// # Safety
    /// `tuple` must be a row of the table whose descriptor `desc` is, readable during the call.
    pub(super) unsafe fn of_tuple(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> Self {
        // SAFETY: the caller's promise. Only that function knows all in which a datum differs from a row on its page:
        // minor releases added to it.
        unsafe {
            let datum = pg_sys::heap_copy_tuple_as_datum(tuple, desc);
            let copy = Flat::of_bytes(datum.cast_mut_ptr(), pgrx::varsize_any(datum.cast_mut_ptr()));
            pg_sys::pfree(datum.cast_mut_ptr());
            copy
        }
    }

    /// # Safety
    /// `length` readable bytes.
    unsafe fn of_bytes(from: *const u8, length: usize) -> Self {
        let words = length.div_ceil(8);
        let mut copy: Vec<u64> = Vec::with_capacity(words);
        // SAFETY: the room for `words` words was just made, and all of it is written: the last word before the bytes.
        unsafe {
            if words > 0 {
                copy.as_mut_ptr().add(words - 1).write(0);
            }
            std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr().cast::<u8>(), length);
            copy.set_len(words);
        }
        Flat(copy.into_boxed_slice(), length)
    }

    /// # Safety
    /// `datum` must be a not-null varlena of any kind (short, compressed and external included).
    unsafe fn copy(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise; pg_detoast_datum returns the value itself or a palloc'd plain copy. A short one
        // (postgres.h: its first byte is odd, and the length with itself) is written out with a header of four bytes.
        unsafe {
            let given: *mut pg_sys::varlena = datum.cast_mut_ptr();
            let first = *given.cast::<u8>();
            if first & 1 == 1 && first != 1 && cfg!(target_endian = "little") {
                let data = usize::from(first >> 1) - 1;
                let length = data + size_of::<u32>();
                let mut copy = vec![0_u64; length.div_ceil(8)].into_boxed_slice();
                let to = copy.as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(given.cast::<u8>().add(1), to.add(size_of::<u32>()), data);
                pgrx::set_varsize_4b(to.cast(), i32::try_from(length).unwrap_or(0));
                return Flat(copy, length);
            }
            let plain = pg_sys::pg_detoast_datum(given);
            let len = pgrx::varsize_any(plain);
            let copy = Flat::of_bytes(plain.cast(), len);
            if plain != given {
                pg_sys::pfree(plain.cast());
            }
            copy
        }
    }
}

/// jsonb[], read where it lies: not copied as `Flat` is, because it may be as large as memory allows.
pub struct Elements<'fcx>(&'fcx pg_sys::ArrayType);

/// An element of it.
#[derive(Clone, Copy)]
pub struct Element<'a>(&'a pg_sys::varlena);

impl Element<'_> {
    /// Its size in bytes, header included.
    pub fn len(self) -> usize {
        // SAFETY: a varlena that its array keeps.
        unsafe { pgrx::varsize_any(self.0) }
    }

    /// The value as a Datum that points into the array.
    pub(super) fn datum(self) -> pg_sys::Datum {
        pg_sys::Datum::from(std::ptr::from_ref(self.0))
    }
}

impl Elements<'_> {
    /// # Safety
    /// The datum is a jsonb[], and not null; it, or its copy in the current context, outlives the value.
    pub(super) unsafe fn of(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Elements(&*pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast()) }
    }

    /// The elements in the order in which they are stored; `None` is NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<Element<'_>>> {
        let array = std::ptr::from_ref(self.0);
        let dimensions = usize::try_from(self.0.ndim).unwrap_or(0);
        // SAFETY: the layout of array.h: the header, dimensions and lower bounds, the bitmap of what is not NULL when
        // there is one (dataoffset is then the data's place), the elements without gaps but for their alignment to four
        // bytes, which a short header has not and does not need (att_align_pointer, tupmacs.h).
        unsafe {
            let lengths = array.add(1).cast::<i32>().cast_mut();
            let count = usize::try_from(pg_sys::ArrayGetNItems(self.0.ndim, lengths)).unwrap_or(0);
            let header = size_of::<pg_sys::ArrayType>() + 2 * dimensions * size_of::<i32>();
            let bitmap = (self.0.dataoffset != 0).then(|| array.cast::<u8>().add(header));
            let start = usize::try_from(self.0.dataoffset).unwrap_or(0);
            let mut at = if start == 0 { header.next_multiple_of(8) } else { start };
            (0..count).map(move |n| {
                if bitmap.is_some_and(|bits| *bits.add(n / 8) & (1 << (n % 8)) == 0) {
                    return None;
                }
                if *array.cast::<u8>().add(at) == 0 {
                    at = at.next_multiple_of(4);
                }
                let element = &*array.cast::<u8>().add(at).cast::<pg_sys::varlena>();
                at += pgrx::varsize_any(element);
                Some(Element(element))
            })
        }
    }
}

// SAFETY: the argument is detoasted, in memory that lives as long as the call; a null never reaches it but through Option.
unsafe impl<'fcx> ArgAbi<'fcx> for Elements<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: PgArg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declarations give Elements only to jsonb[], as Option<Elements>, so null was looked at.
        unsafe { Elements::of(arg.unbox_arg_using_from_datum().unwrap_or(pg_sys::Datum::null())) }
    }
}

// SAFETY: only pgrx's generator reads this; our functions are declared in sql/schema/functions.sql.
unsafe impl SqlTranslatable for Elements<'_> {
    const TYPE_IDENT: &'static str = "pgq::pg::datum::Elements";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb[]"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb[]")));
}

impl FromDatum for Flat {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: not null, and Flat is only asked for where the SQL type is a varlena.
        (!is_null).then(|| unsafe { Flat::copy(datum) })
    }
}

impl IntoDatum for Flat {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // SAFETY: palloc gives `len` bytes in the current context; the copy is the value's exact size.
        unsafe {
            let copy = pg_sys::palloc(self.1);
            std::ptr::copy_nonoverlapping(self.0.as_ptr().cast::<u8>(), copy.cast::<u8>(), self.1);
            Some(pg_sys::Datum::from(copy))
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: unboxing copies the argument (from_datum); a null never reaches it but through Option.
unsafe impl<'fcx> ArgAbi<'fcx> for Flat {
    unsafe fn unbox_arg_unchecked(arg: PgArg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declarations give Flat only to varlena types, as Option<Flat>, so null was looked at.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(flat) => flat,
            None => Flat(Box::new([]), 0),
        }
    }

    unsafe fn unbox_nullable_arg(arg: PgArg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: the Datum returned is a palloc'd copy in the caller's context.
unsafe impl BoxRet for Flat {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> PgDatum<'fcx> {
        match self.into_datum() {
            // SAFETY: see above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: only pgrx's generator reads this; our functions are declared in sql/schema/functions.sql.
unsafe impl SqlTranslatable for Flat {
    const TYPE_IDENT: &'static str = "pgq::pg::datum::Flat";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
