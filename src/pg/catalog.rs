//! What the catalog says of roles, functions and their rights, read from the system caches: a few microseconds, so
//! that every transaction of a worker can ask. Rights are computed from the row that was found (`aclmask`, as
//! pg_proc_aclmask does it, aclchk.c), not by oid: those functions raise for what was dropped a moment ago.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::SysCacheIdentifier as Cache;

use super::encoding;

/// A role.
pub struct Role {
    /// Its name.
    pub name: String,
    /// Has it the attribute LOGIN?
    pub can_login: bool,
    /// Has it the attribute SUPERUSER?
    pub is_superuser: bool,
    /// May it connect to this database?
    pub may_connect: bool,
}

/// A function or procedure, as a role sees it.
pub struct Function {
    /// Is it a procedure?
    pub is_procedure: bool,
    /// Why it cannot be a handler whatever its arguments are.
    pub unfit: Option<&'static str>,
    /// Its schema.
    pub schema: String,
    /// Its owner.
    pub owner: String,
    /// Is the owner the role, a superuser, or one who holds the role's rights anyway?
    pub owner_is_trusted: bool,
    /// May the role use the schema?
    pub may_use_schema: bool,
    /// May the role execute it?
    pub may_execute: bool,
}

/// A row of a system cache, held while `with` runs.
struct Held {
    cache: i32,
    tuple: pg_sys::HeapTuple,
}

impl Held {
    /// Finds the row of an oid and shows it to `read`. An error inside needs no release: the abort does it
    /// (ResourceOwnerRelease).
    fn with<T>(cache: Cache::Type, oid: pg_sys::Oid, read: impl FnOnce(&Held) -> Option<T>) -> Option<T> {
        let cache = i32::try_from(cache).unwrap_or(0);
        // SAFETY: a look-up by oid inside a transaction; `cache` is one whose key is one oid.
        let tuple = unsafe { pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid)) };
        if tuple.is_null() {
            return None;
        }
        let result = read(&Held { cache, tuple });
        // SAFETY: found above and released once.
        unsafe { pg_sys::ReleaseSysCache(tuple) };
        result
    }

    /// The fixed part of the row.
    ///
    /// # Safety
    /// `T` is the form of the cache's catalog.
    unsafe fn form<T>(&self) -> &T {
        // SAFETY: GETSTRUCT of a tuple that is held as long as `self` lives.
        unsafe { &*pg_sys::GETSTRUCT(self.tuple).cast::<T>() }
    }

    fn attribute(&self, number: u32) -> Option<pg_sys::Datum> {
        let mut null = false;
        let number = i16::try_from(number).unwrap_or(0);
        // SAFETY: a column of the cache's catalog; the datum lives as long as the tuple is held.
        let datum = unsafe { pg_sys::SysCacheGetAttr(self.cache, self.tuple, number, &mut null) };
        (!null).then_some(datum)
    }

    /// Has `role` the right, by the access list in column `acl` or, where that is NULL, by the kind's default?
    fn allows(
        &self,
        acl: u32,
        kind: pg_sys::ObjectType::Type,
        owner: pg_sys::Oid,
        role: pg_sys::Oid,
        right: u32,
    ) -> bool {
        // SAFETY: as pg_proc_aclmask (aclchk.c): an array of aclitem from the row, detoasted, or a palloc'd default.
        unsafe {
            if pg_sys::superuser_arg(role) {
                return true;
            }
            let list = match self.attribute(acl) {
                Some(datum) => pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast(),
                None => pg_sys::acldefault(kind, owner),
            };
            let right = pg_sys::AclMode::from(right);
            pg_sys::aclmask(list, role, owner, right, pg_sys::AclMaskHow::ACLMASK_ANY) != 0
        }
    }
}

fn text(name: &pg_sys::NameData) -> String {
    // SAFETY: a NameData ends with a zero byte.
    encoding::from_server_c(unsafe { CStr::from_ptr(name.data.as_ptr()) })
}

/// The role of an oid, if there is one.
pub fn role(oid: u32) -> Option<Role> {
    let oid = pg_sys::Oid::from(oid);
    Held::with(Cache::AUTHOID, oid, |found| {
        // SAFETY: the form of pg_authid.
        let form: &pg_sys::FormData_pg_authid = unsafe { found.form() };
        Some(Role {
            name: text(&form.rolname),
            can_login: form.rolcanlogin,
            is_superuser: form.rolsuper,
            may_connect: may_connect(oid),
        })
    })
}

/// This database, as the catalog has it.
fn this_database<T>(read: impl FnOnce(&Held, &pg_sys::FormData_pg_database) -> T) -> Option<T> {
    // SAFETY: set at connect; the form of pg_database.
    unsafe { Held::with(Cache::DATABASEOID, pg_sys::MyDatabaseId, |found| Some(read(found, found.form()))) }
}

fn may_connect(role: pg_sys::Oid) -> bool {
    let kind = pg_sys::ObjectType::OBJECT_DATABASE;
    this_database(|found, form| {
        found.allows(pg_sys::Anum_pg_database_datacl, kind, form.datdba, role, pg_sys::ACL_CONNECT)
    })
    .unwrap_or(false)
}

/// This database's name.
pub fn database_name() -> String {
    this_database(|_, form| text(&form.datname)).unwrap_or_default()
}

/// Is there a role of this name?
pub fn has_role_named(name: &str) -> bool {
    let Some(name) = encoding::to_server_c(name) else { return false };
    // SAFETY: a catalog look-up inside a transaction; missing_ok.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) != pg_sys::InvalidOid }
}

/// The function of an oid, as `role` sees it.
pub fn function(oid: u32, role: u32) -> Option<Function> {
    let role = pg_sys::Oid::from(role);
    Held::with(Cache::PROCOID, pg_sys::Oid::from(oid), |found| {
        // SAFETY: the form of pg_proc.
        let form: &pg_sys::FormData_pg_proc = unsafe { found.form() };
        let (schema, may_use_schema) = schema(form.pronamespace, role)?;
        let (owner, owner_is_super) = Held::with(Cache::AUTHOID, form.proowner, |owner| {
            // SAFETY: the form of pg_authid.
            let owner: &pg_sys::FormData_pg_authid = unsafe { owner.form() };
            Some((text(&owner.rolname), owner.rolsuper))
        })?;
        let kind = pg_sys::ObjectType::OBJECT_FUNCTION;
        Some(Function {
            is_procedure: is_kind(form, b'p'),
            unfit: unfit(found, form),
            schema,
            owner,
            // SAFETY: a look-up in the cache of memberships.
            owner_is_trusted: owner_is_super || unsafe { pg_sys::has_privs_of_role(form.proowner, role) },
            may_use_schema,
            may_execute: found.allows(pg_sys::Anum_pg_proc_proacl, kind, form.proowner, role, pg_sys::ACL_EXECUTE),
        })
    })
}

/// (name, may the role use it) of a schema.
fn schema(oid: pg_sys::Oid, role: pg_sys::Oid) -> Option<(String, bool)> {
    let kind = pg_sys::ObjectType::OBJECT_SCHEMA;
    Held::with(Cache::NAMESPACEOID, oid, |found| {
        // SAFETY: the form of pg_namespace.
        let form: &pg_sys::FormData_pg_namespace = unsafe { found.form() };
        let may_use = found.allows(pg_sys::Anum_pg_namespace_nspacl, kind, form.nspowner, role, pg_sys::ACL_USAGE);
        Some((text(&form.nspname), may_use))
    })
}

fn is_kind(form: &pg_sys::FormData_pg_proc, kind: u8) -> bool {
    form.prokind.to_ne_bytes() == [kind]
}

fn unfit(found: &Held, form: &pg_sys::FormData_pg_proc) -> Option<&'static str> {
    let no_value = [pg_sys::TRIGGEROID, pg_sys::EVENT_TRIGGEROID, pg_sys::INTERNALOID, pg_sys::CSTRINGOID];
    if !is_kind(form, b'f') && !is_kind(form, b'p') {
        Some("it is an aggregate or a window function")
    } else if form.proretset {
        Some("it returns a set")
    } else if form.provariadic != pg_sys::InvalidOid || found.attribute(pg_sys::Anum_pg_proc_proargmodes).is_some() {
        Some("it has OUT, INOUT or VARIADIC arguments")
    } else if no_value.contains(&form.prorettype) {
        Some("its result type cannot be used outside its own purpose")
    } else {
        None
    }
}
