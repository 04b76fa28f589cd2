//! What a hostile workload can do to the agent of a real machine, which is nothing.

use std::thread;

use vmette::{Config, Error, ExecOptions, ExitStatus, Session, WorkloadStrategy};

use crate::suite::Bench;

/// Commands that are started at once: enough that some are stopped before they have become programs.
const COMMANDS: usize = 24;

fn session(bench: &Bench) -> Session {
    let config = Config { workload: WorkloadStrategy::Agent, ..bench.config() };
    bench.start(&config).unwrap()
}

#[test]
fn processes_that_stop_all_others_do_not_stop_the_agent() {
    let bench = Bench::new(tempfile::tempdir().unwrap(), None);
    for user in ["1000", "0"] {
        let session = session(&bench);
        let endless = ExecOptions::shell("echo begun; while :; do kill -STOP -1; done").user(user);
        let attacker = session.exec(&endless).unwrap();
        attacker.next_output().unwrap();
        thread::scope(|scope| {
            let command = || session.exec(&ExecOptions::argv(["true"]).user(user));
            let all: Vec<_> = (0..COMMANDS).map(|_| scope.spawn(command)).collect();
            session.ping().unwrap();
            for started in all {
                match started.join().unwrap() {
                    // It may have been stopped since.
                    Ok(_) => {}
                    Err(Error::Request(failure)) => {
                        assert!(failure.message.contains("held up"), "{}", failure.message);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
        session.ping().unwrap();
        attacker.signal(9).unwrap();
        assert_eq!(attacker.wait().unwrap(), ExitStatus::Signal(9));
        let after = session.exec(&ExecOptions::argv(["true"]).user(user)).unwrap();
        assert_eq!(after.wait().unwrap(), ExitStatus::Code(0));
    }
}
