//! The search for calls that do something else than the model says: tested with a planted fault. The
//! search itself is part P01 of the torture.

use pgq_tests::random::{search, server, Player};
use pgq_tests::run;

#[test]
fn a_planted_fault_is_found_and_comes_out_as_a_short_script() {
    let server = server(false);
    let mut player = Player::new(&server, false);
    // Says that it gave the job back, and did not.
    run(
        &mut server.connect("random"),
        "CREATE OR REPLACE FUNCTION pgq.release(id bigint, attempt integer, delay interval DEFAULT '0')
         RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM pgq.job AS j
            WHERE j.id = $1 AND j.attempt = $2 AND j.state = ''leased'')'",
    );
    let script = search(&mut player, 500, 1).expect_err("the planted fault");
    println!("{script}");
    let calls: Vec<&str> = script.lines().filter(|line| line.starts_with("SELECT")).collect();
    assert_eq!(calls.len(), 3, "{script}");
    for (call, name) in calls.iter().zip(["put", "claim", "release"]) {
        assert!(call.contains(name), "{script}");
    }
}
