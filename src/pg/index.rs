//! The indexes of pgq.job that walks go along (`pg::scan`): which of the table's they are, and the keys of a walk.
//!
//! M16: an index is chosen as the planner would, in each transaction: by its definition, and only if it is valid. So a
//! REINDEX, one that was dropped, or one of the same name that is another, disturbs nobody.

use std::cell::Cell;

use pgrx::pg_sys;

use super::scan::Field;
use super::spi::Column;
use super::tamper;

/// In which order the jobs stand: each is an index of sql/schema/indexes.sql.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// job_ready_idx: by queue, larger priority first, then by id.
    Queue = 0,
    /// job_task_idx: the same of each task of a queue, without the jobs that have none.
    Task = 1,
    /// job_waiting_idx: those that wait for others, by queue and group, then by id.
    Group = 2,
}

/// What a walk gives a value for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Queue,
    Task,
    Group,
    /// The largest priority.
    Most,
    /// The smallest.
    Least,
    /// The smallest id.
    From,
}

/// A column of an index.
struct IndexColumn {
    field: Field,
    family: pg_sys::Oid,
    collation: pg_sys::Oid,
    /// INDOPTION_DESC | INDOPTION_NULLS_FIRST (pg_index.h), or 0.
    option: i16,
}

const fn column(field: Field) -> IndexColumn {
    let (family, collation, option) = match field {
        Field::Priority => (pg_sys::INTEGER_BTREE_FAM_OID, pg_sys::InvalidOid, 3),
        Field::Id => (pg_sys::INTEGER_BTREE_FAM_OID, pg_sys::InvalidOid, 0),
        _ => (pg_sys::TEXT_BTREE_FAM_OID, pg_sys::C_COLLATION_OID, 0),
    };
    IndexColumn { field, family, collation, option }
}

impl Order {
    fn columns(self) -> &'static [IndexColumn] {
        const QUEUE: [IndexColumn; 3] = [column(Field::Queue), column(Field::Priority), column(Field::Id)];
        const TASK: [IndexColumn; 4] =
            [column(Field::Queue), column(Field::Task), column(Field::Priority), column(Field::Id)];
        const GROUP: [IndexColumn; 3] = [column(Field::Queue), column(Field::GroupKey), column(Field::Id)];
        match self {
            Order::Queue => &QUEUE,
            Order::Task => &TASK,
            Order::Group => &GROUP,
        }
    }
}

/// An index that can be walked along, open.
#[derive(Clone, Copy)]
pub(super) struct Along {
    index: pg_sys::Relation,
    order: Order,
}

thread_local! {
    /// Of each order: (table, index, `tamper::generation` when it was found)
    static KNOWN: [Cell<(pg_sys::Oid, pg_sys::Oid, u64)>; 3] =
        const { [const { Cell::new((pg_sys::InvalidOid, pg_sys::InvalidOid, 0)) }; 3] };
}

impl Along {
    /// The index of this order; `None` when there is none that can be used. The caller closes it.
    ///
    /// # Safety
    /// `heap` must be pgq.job, open and locked.
    pub(super) unsafe fn of(heap: pg_sys::Relation, order: Order) -> Option<Self> {
        let generation = tamper::generation();
        // SAFETY: no relation was changed since the index was found, so it is there; RowExclusive and AccessShare locks
        // conflict with what would drop it, and opening it tells of changes that came before.
        unsafe {
            let table = (*heap).rd_id;
            let (of, known, at) = KNOWN.with(|all| all[order as usize].get());
            if of == table && at == generation {
                if known == pg_sys::InvalidOid {
                    return None;
                }
                let index = open(known);
                if tamper::generation() == generation {
                    return Some(Along { index, order });
                }
                pg_sys::index_close(index, 0);
            }
            let generation = tamper::generation();
            let list = pg_sys::RelationGetIndexList(heap);
            let mut found = None;
            for n in 0..pg_sys::list_length(list) {
                let index = open(pg_sys::list_nth_oid(list, n));
                if is_of(index, order) {
                    found = Some(index);
                    break;
                }
                pg_sys::index_close(index, 0);
            }
            pg_sys::list_free(list);
            let oid = found.map_or(pg_sys::InvalidOid, |index| (*index).rd_id);
            KNOWN.with(|all| all[order as usize].set((table, oid, generation)));
            found.map(|index| Along { index, order })
        }
    }

    pub(super) fn index(self) -> pg_sys::Relation {
        self.index
    }

    /// What a walk must give: (key, column of the index, operator).
    pub(super) fn keys(self) -> &'static [(Key, i16, u32, u32)] {
        use pg_sys::{
            BTEqualStrategyNumber as EQ, BTGreaterEqualStrategyNumber as GE, BTLessEqualStrategyNumber as LE,
        };
        // texteq, int4le, int4ge, int8ge (pg_proc.dat).
        const QUEUE: [(Key, i16, u32, u32); 4] = [
            (Key::Queue, 1, EQ, pg_sys::F_TEXTEQ),
            (Key::Most, 2, LE, pg_sys::F_INT4LE),
            (Key::Least, 2, GE, pg_sys::F_INT4GE),
            (Key::From, 3, GE, pg_sys::F_INT8GE),
        ];
        const TASK: [(Key, i16, u32, u32); 5] = [
            (Key::Queue, 1, EQ, pg_sys::F_TEXTEQ),
            (Key::Task, 2, EQ, pg_sys::F_TEXTEQ),
            (Key::Most, 3, LE, pg_sys::F_INT4LE),
            (Key::Least, 3, GE, pg_sys::F_INT4GE),
            (Key::From, 4, GE, pg_sys::F_INT8GE),
        ];
        const GROUP: [(Key, i16, u32, u32); 3] = [
            (Key::Queue, 1, EQ, pg_sys::F_TEXTEQ),
            (Key::Group, 2, EQ, pg_sys::F_TEXTEQ),
            (Key::From, 3, GE, pg_sys::F_INT8GE),
        ];
        match self.order {
            Order::Queue => &QUEUE,
            Order::Task => &TASK,
            Order::Group => &GROUP,
        }
    }

    /// The keys of a walk, for index_rescan.
    ///
    /// # Safety
    /// `value` must give a datum of its key's type, readable as long as the keys are used.
    pub(super) unsafe fn scan_keys(self, value: impl Fn(Key) -> pg_sys::Datum) -> Vec<pg_sys::ScanKeyData> {
        let entry = |(key, column, strategy, procedure): &(Key, i16, u32, u32)| {
            let mut entry = pg_sys::ScanKeyData::default();
            let is_text = matches!(key, Key::Queue | Key::Task | Key::Group);
            // SAFETY: fills the entry in; the procedures are the server's own.
            unsafe {
                pg_sys::ScanKeyEntryInitialize(
                    &mut entry,
                    0,
                    *column,
                    u16::try_from(*strategy).unwrap_or(0),
                    pg_sys::InvalidOid,
                    if is_text { pg_sys::C_COLLATION_OID } else { pg_sys::InvalidOid },
                    pg_sys::Oid::from(*procedure),
                    value(*key),
                );
            }
            entry
        };
        self.keys().iter().map(entry).collect()
    }
}

/// # Safety
/// An index that exists, of a table that is locked.
unsafe fn open(oid: pg_sys::Oid) -> pg_sys::Relation {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::index_open(oid, i32::try_from(pg_sys::AccessShareLock).unwrap_or(1)) }
}

/// Is it what sql/schema/indexes.sql makes, and can it be used? As get_relation_info (plancat.c) asks; one with
/// indcheckxmin is left to the planner.
///
/// # Safety
/// `index` must be an open index of pgq.job.
unsafe fn is_of(index: pg_sys::Relation, order: Order) -> bool {
    let columns = order.columns();
    // SAFETY: fields of an open index's relcache entry; indkey and the arrays have indnkeyatts elements.
    unsafe {
        let form = &*(*index).rd_index;
        let is_usable = form.indisvalid && form.indisready && form.indislive && !form.indcheckxmin;
        if !is_usable || usize::try_from(form.indnkeyatts).ok() != Some(columns.len()) {
            return false;
        }
        let keys = form.indkey.values.as_ptr();
        for (n, column) in columns.iter().enumerate() {
            let same = *keys.add(n) == column.field as i16
                && *(*index).rd_opfamily.add(n) == column.family
                && *(*index).rd_indcollation.add(n) == column.collation
                && *(*index).rd_indoption.add(n) == column.option;
            if !same {
                return false;
            }
        }
        is_predicate_of(pg_sys::RelationGetIndexPredicate(index), order)
    }
}

/// Is it `state = 'ready'`, and for tasks also `task IS NOT NULL`; or for groups `state = 'waiting'`?
///
/// # Safety
/// `predicate` must be a list of expressions, or null.
unsafe fn is_predicate_of(predicate: *mut pg_sys::List, order: Order) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let terms = pg_sys::list_length(predicate);
        let term = |n| pg_sys::list_nth(predicate, n).cast();
        match order {
            Order::Queue => terms == 1 && is_state(term(0), "ready"),
            Order::Task => terms == 2 && is_state(term(0), "ready") && is_task_not_null(term(1)),
            Order::Group => terms == 1 && is_state(term(0), "waiting"),
        }
    }
}

/// # Safety
/// `node` must be an expression over columns of pgq.job.
unsafe fn is_state(node: *mut pg_sys::Node, word: &str) -> bool {
    // SAFETY: nodes are looked at by their tags.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_OpExpr {
            return false;
        }
        let node: *mut pg_sys::OpExpr = node.cast();
        if (*node).opno != pg_sys::Oid::from(pg_sys::TextEqualOperator) || pg_sys::list_length((*node).args) != 2 {
            return false;
        }
        let right: *mut pg_sys::Const = pg_sys::list_nth((*node).args, 1).cast();
        is_column(pg_sys::list_nth((*node).args, 0).cast(), Field::State)
            && (*right).xpr.type_ == pg_sys::NodeTag::T_Const
            && String::read((*right).constvalue, (*right).constisnull).is_some_and(|other| other == word)
    }
}

/// # Safety
/// As `is_state`.
unsafe fn is_task_not_null(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as there.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_NullTest {
            return false;
        }
        let node: *mut pg_sys::NullTest = node.cast();
        (*node).nulltesttype == pg_sys::NullTestType::IS_NOT_NULL && is_column((*node).arg.cast(), Field::Task)
    }
}

/// # Safety
/// As `is_state`.
unsafe fn is_column(node: *mut pg_sys::Node, field: Field) -> bool {
    // SAFETY: as there.
    unsafe { (*node).type_ == pg_sys::NodeTag::T_Var && (*node.cast::<pg_sys::Var>()).varattno == field as i16 }
}
