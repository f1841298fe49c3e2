//! Who may do what with a queue: the four accesses, what each of them needs of the schema, and whether
//! the grants that somebody holds suffice for what he wants.

/// What a grant of pgq.grant_usage is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Putting jobs, and learning what became of them.
    Produce,
    /// Claiming and finishing jobs from outside.
    Consume,
    /// Looking at queues and workers; never at args, results or error texts.
    Monitor,
    /// All of these, and changing the queue: its handlers, settings, and jobs.
    Admin,
}

impl Access {
    /// All of them.
    pub const ALL: [Access; 4] = [Access::Produce, Access::Consume, Access::Monitor, Access::Admin];

    /// From SQL's word (queue_grant_access_check).
    pub fn parse(word: &str) -> Option<Self> {
        Access::ALL.into_iter().find(|access| access.word() == word)
    }

    /// SQL's word.
    pub fn word(self) -> &'static str {
        match self {
            Access::Produce => "produce",
            Access::Consume => "consume",
            Access::Monitor => "monitor",
            Access::Admin => "admin",
        }
    }

    /// Does a grant of this access do for what needs `other`?
    fn includes(self, other: Access) -> bool {
        self == other || self == Access::Admin
    }
}

/// A grant that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of what.
    pub access: Access,
    /// On which queue; `None` is all of the database, present and future.
    pub queue: Option<String>,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Everything: a superuser, or whoever holds the rights of the extension's owner.
    Owner,
    /// What these grants say.
    Granted(std::rc::Rc<Vec<Grant>>),
}

impl Rights {
    /// Do one of these accesses reach the queue (`None`: all queues)?
    pub fn allow(&self, any: &[Access], queue: Option<&str>) -> bool {
        self.matches(any, |on| on.is_none() || (queue.is_some() && on == queue))
    }

    /// Do one of these accesses reach some queue?
    pub fn allow_somewhere(&self, any: &[Access]) -> bool {
        self.matches(any, |_| true)
    }

    fn matches(&self, any: &[Access], reaches: impl Fn(Option<&str>) -> bool) -> bool {
        match self {
            Rights::Owner => true,
            Rights::Granted(grants) => grants
                .iter()
                .any(|g| reaches(g.queue.as_deref()) && any.iter().any(|needed| g.access.includes(*needed))),
        }
    }

    /// The queues that this access reaches; `None` when it is all.
    pub fn queues(&self, access: Access) -> Option<Vec<Option<String>>> {
        match self {
            Rights::Granted(grants) if !self.allow(&[access], None) => {
                Some(grants.iter().filter(|g| g.access.includes(access)).map(|g| g.queue.clone()).collect())
            }
            _ => None,
        }
    }
}

/// Objects of the schema that a grant makes reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// EXECUTE on a function.
    Function(&'static str),
    /// SELECT from a view.
    View(&'static str),
    /// USAGE of a type.
    Type(&'static str),
    /// USAGE of the schema itself.
    Schema,
}

const ANY: &[Object] = &[
    Object::Schema,
    Object::Type("job"),
    Object::Function("current_job"),
    Object::Function("may"),
    Object::Function("next_runs"),
    Object::Function("start"),
    Object::Function("stats"),
    Object::Function("version"),
    Object::Function("waiting"),
];

const PRODUCE: &[Object] = &[
    Object::Function("put"),
    Object::Function("bulk_put"),
    Object::Function("flow"),
    Object::Function("wait"),
    Object::Function("on_change"),
    Object::Function("off_change"),
    Object::Function("change_trigger"),
];

const CONSUME: &[Object] = &[
    Object::Function("claim"),
    Object::Function("complete"),
    Object::Function("bulk_complete"),
    Object::Function("fail"),
    Object::Function("extend"),
    Object::Function("release"),
    Object::Function("wait"),
];

const MONITOR: &[Object] = &[
    Object::Function("doctor"),
    Object::Function("executors"),
    Object::View("flows"),
    Object::View("queues"),
    Object::View("running"),
    Object::View("schedules"),
    Object::View("workers"),
];

const ADMIN: &[Object] = &[
    Object::Function("register"),
    Object::Function("unregister"),
    Object::Function("arm"),
    Object::Function("configure"),
    Object::Function("pause"),
    Object::Function("resume"),
    Object::Function("cancel"),
    Object::Function("retry"),
    Object::Function("redrive"),
    Object::Function("purge"),
    Object::Function("schedule"),
    Object::Function("unschedule"),
    Object::Function("pause_schedule"),
    Object::Function("resume_schedule"),
    Object::Function("run_schedule"),
    Object::Function("run"),
    Object::Function("grant_usage"),
    Object::Function("revoke_usage"),
    Object::View("dead"),
];

/// What a role needs for these accesses, each object once; nothing for none.
pub fn objects(held: &[Access]) -> Vec<Object> {
    let mut needed = Vec::new();
    for access in Access::ALL.into_iter().filter(|access| held.iter().any(|h| h.includes(*access))) {
        let own = match access {
            Access::Produce => PRODUCE,
            Access::Consume => CONSUME,
            Access::Monitor => MONITOR,
            Access::Admin => ADMIN,
        };
        for object in ANY.iter().chain(own) {
            if !needed.contains(object) {
                needed.push(*object);
            }
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn rights(grants: &[(Access, Option<&str>)]) -> Rights {
        let grants = grants.iter().map(|(access, queue)| Grant { access: *access, queue: queue.map(Into::into) });
        Rights::Granted(Rc::new(grants.collect()))
    }

    #[test]
    fn words_and_accesses_are_one_to_one() {
        for access in Access::ALL {
            assert_eq!(Access::parse(access.word()), Some(access));
        }
        assert_eq!(Access::parse("Produce"), None);
        assert_eq!(Access::parse(""), None);
    }

    #[test]
    fn a_grant_is_for_its_queue_and_its_access_only() {
        let rights = rights(&[(Access::Produce, Some("mail"))]);
        assert!(rights.allow(&[Access::Produce], Some("mail")));
        assert!(rights.allow(&[Access::Consume, Access::Produce], Some("mail")));
        assert!(!rights.allow(&[Access::Produce], Some("mail2")));
        assert!(!rights.allow(&[Access::Produce], None));
        for other in [Access::Consume, Access::Monitor, Access::Admin] {
            assert!(!rights.allow(&[other], Some("mail")), "{other:?}");
            assert!(!rights.allow_somewhere(&[other]), "{other:?}");
        }
        assert!(rights.allow_somewhere(&Access::ALL));
    }

    #[test]
    fn a_grant_on_all_queues_is_for_each_and_for_all() {
        let rights = rights(&[(Access::Consume, None)]);
        assert!(rights.allow(&[Access::Consume], Some("mail")));
        assert!(rights.allow(&[Access::Consume], None));
        assert!(!rights.allow(&[Access::Produce], Some("mail")));
    }

    #[test]
    fn admin_includes_the_others_on_its_queue() {
        let rights = rights(&[(Access::Admin, Some("mail"))]);
        for access in Access::ALL {
            assert!(rights.allow(&[access], Some("mail")), "{access:?}");
            assert!(!rights.allow(&[access], Some("push")), "{access:?}");
            assert!(!rights.allow(&[access], None), "{access:?}");
        }
    }

    #[test]
    fn no_grant_is_no_right_and_the_owner_has_all() {
        for access in Access::ALL {
            for queue in [None, Some("mail")] {
                assert!(!rights(&[]).allow(&[access], queue));
                assert!(Rights::Owner.allow(&[access], queue));
            }
            assert!(!rights(&[]).allow_somewhere(&[access]));
            assert!(Rights::Owner.allow_somewhere(&[access]));
            assert_eq!(Rights::Owner.queues(access), None);
            assert_eq!(rights(&[]).queues(access), Some(vec![]));
        }
    }

    #[test]
    fn the_queues_of_an_access_are_those_that_it_reaches() {
        let some = rights(&[(Access::Consume, Some("a")), (Access::Produce, Some("b")), (Access::Admin, Some("c"))]);
        assert_eq!(some.queues(Access::Consume), Some(vec![Some("a".into()), Some("c".into())]));
        assert_eq!(some.queues(Access::Monitor), Some(vec![Some("c".into())]));
        assert_eq!(rights(&[(Access::Admin, None), (Access::Consume, Some("a"))]).queues(Access::Consume), None);
    }

    #[test]
    fn each_access_needs_the_schema_and_nothing_needs_nothing() {
        assert_eq!(objects(&[]), []);
        for access in Access::ALL {
            let needed = objects(&[access]);
            assert!(needed.contains(&Object::Schema), "{access:?}");
            for (n, object) in needed.iter().enumerate() {
                assert!(!needed[..n].contains(object), "{object:?} twice");
            }
        }
    }

    #[test]
    fn admin_needs_what_the_others_need_and_they_not_what_he_needs() {
        let all = objects(&[Access::Admin]);
        for access in [Access::Produce, Access::Consume, Access::Monitor] {
            for object in objects(&[access]) {
                assert!(all.contains(&object), "{object:?}");
                assert!(!ADMIN.contains(&object), "{object:?}");
            }
        }
        assert!(!objects(&[Access::Monitor]).contains(&Object::Function("wait")), "it shows results");
    }
}
