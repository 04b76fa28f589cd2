//! What the agent of a real machine stands: a workload that is hostile, and as many commands as are promised.

use std::thread;

use vmette::{Error, ExecOptions, ExitStatus, Session, WorkloadStrategy};

use crate::suite::Bench;

/// Commands that are started at once: enough that some are stopped before they have become programs.
const COMMANDS: usize = 24;

/// Commands of a machine at once.
const STREAMS: usize = 256;

fn session(bench: &Bench) -> Session {
    let config = bench.config().with(|c| c.command.workload = WorkloadStrategy::Agent);
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

#[test]
fn as_many_commands_as_are_promised_run_at_once() {
    let bench = Bench::new(tempfile::tempdir().unwrap(), None);
    let session = session(&bench);
    let limit = session.exec(&ExecOptions::shell("ulimit -n")).unwrap().collect(1 << 10).unwrap();
    assert_eq!(limit.stdout, b"1024\n", "the limit of programs is not the agent's");
    let cat = ExecOptions::argv(["cat"]).stdin(true);
    let all: Vec<_> = (0..STREAMS).map(|_| session.exec(&cat).unwrap()).collect();
    match session.exec(&cat) {
        Err(Error::Request(failure)) => assert!(failure.message.contains("256 commands"), "{failure:?}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("one more runs"),
    }
    for process in all {
        process.write_stdin(b"x").unwrap();
        process.close_stdin().unwrap();
        assert_eq!(process.collect(1 << 10).unwrap().stdout, b"x");
    }
}
