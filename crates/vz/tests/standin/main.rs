//! The engine on the stand-in for macOS, where a machine is a process that serves the real agent.
#![cfg(all(vz_check, not(target_vendor = "apple")))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod bench;
mod vsock;

use std::fs;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use vmette_vmm::{
    AcceleratorChoice, Console, Device, DeviceId, Disk, Error, Frames, Hypervisor, Mac, MachineEnd,
    MachineSpec, Network, Origin, Saved, SavedState, Share, Support,
};

use crate::bench::{Bench, LIMIT, assert_answers, open_files, wait_closed};

#[test]
fn a_machine_boots_answers_and_is_stopped() {
    let bench = Bench::new();
    let machine = bench.machine("quiet");
    let stream = machine.start().unwrap();
    assert_answers(&stream);
    assert!(machine.start().is_err(), "once per machine");
    machine.stop();
    machine.stop();
    assert_eq!(machine.end().wait(), MachineEnd::Stopped);
    wait_closed(&stream);
    assert!(machine.pause().unwrap_err().to_string().contains("stopped"));
}

#[test]
fn the_guest_gets_the_devices_of_its_spec() {
    let bench = Bench::new();
    let image = bench.path("image");
    let share =
        |tag: &str, read_only| Share { tag: tag.into(), path: bench.path("root"), read_only, owner: None };
    let machine = bench
        .engine
        .create(MachineSpec {
            rootfs: Some(image.clone()),
            disks: vec![
                Disk { serial: "scratch".into(), path: image.clone(), read_only: false },
                Disk { serial: "disk0".into(), path: image.clone(), read_only: true },
            ],
            shares: vec![share("work", false), share("in", true)],
            ..bench.spec("quiet")
        })
        .unwrap();
    let _stream = machine.start().unwrap();
    let given = bench.given();
    let (image, root) = (image.display(), bench.path("root"));
    let root = root.display();
    let cmdline = format!("console=hvc0 panic=-1 root={root} quiet vmette.agent=vsock:1024");
    let expected = [
        cmdline,
        format!("initramfs={}", bench.path("initramfs").display()),
        "cpus=2".into(),
        format!("memory={}", 256 << 20),
        "entropy=1".into(),
        "balloons=1".into(),
        format!("disk=rootfs:ro:{image}"),
        format!("disk=scratch:rw:{image}"),
        format!("disk=disk0:ro:{image}"),
        format!("share=work:rw:{root}"),
        format!("share=in:ro:{root}"),
    ];
    assert_eq!(given, expected);
}

#[test]
fn a_network_is_there_when_it_is_granted_and_has_an_address_of_its_own() {
    let network = |bench: &Bench, network| {
        let machine = bench.engine.create(MachineSpec { network, ..bench.spec("") }).unwrap();
        let _stream = machine.start().unwrap();
        let given = bench.given();
        let found: Vec<_> =
            given.iter().filter_map(|line| line.strip_prefix("network=")).map(str::to_owned).collect();
        found
    };
    let bench = Bench::new();
    assert_eq!(network(&bench, Network::None), [""; 0]);
    let [first] = &network(&bench, Network::Nat)[..] else { panic!("one device") };
    let address = u64::from_str_radix(first.strip_prefix("nat:").unwrap(), 16).unwrap();
    // Locally administered, and of one machine rather than a group.
    assert_eq!(address >> 40 & 3, 2, "{first}");
    assert_ne!(network(&bench, Network::Nat), std::slice::from_ref(first));
    let frames =
        |socket: OwnedFd| Network::Frames(Frames { socket: Arc::new(socket), mac: Mac([2, 0, 0, 0, 0, 7]) });
    let (ours, _peer) = UnixDatagram::pair().unwrap();
    assert_eq!(network(&bench, frames(ours.into())), ["frames:020000000007"]);
    let (stream, _peer) = UnixStream::pair().unwrap();
    let spec = MachineSpec { network: frames(stream.into()), ..bench.spec("") };
    let error = bench.engine.create(spec).err().expect("refused").to_string();
    assert!(error.contains("datagram socket"), "{error}");
}

#[test]
fn devices_neither_come_nor_go() {
    let bench = Bench::new();
    let machine = bench.machine("");
    let stream = machine.start().unwrap();
    let share = Share { tag: "a".into(), path: bench.path("root"), read_only: true, owner: None };
    for refused in [machine.attach(Device::Share(share)).map(drop), machine.detach(&DeviceId::Vsock)] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Unsupported { engine: "Virtualization.framework", .. }), "{error}");
    }
    assert_answers(&stream);
}

#[test]
fn a_machine_with_a_network_is_neither_saved_nor_restored() {
    let bench = Bench::new();
    let spec = MachineSpec { network: Network::Nat, ..bench.spec("") };
    let capabilities = bench.engine.probe(&spec).unwrap();
    assert_eq!(capabilities.nat, Support::Yes);
    assert!(capabilities.snapshots.refusal().unwrap().contains("has a network"));
    let machine = bench.engine.create(spec.clone()).unwrap();
    let _stream = machine.start().unwrap();
    machine.pause().unwrap();
    let error = machine.save(&bench.folder("saved")).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { operation: "save", .. }), "{error}");
    assert!(error.to_string().contains("has a network"));
    let saved = Saved { folder: bench.path("saved"), state: SavedState::default() };
    let spec = MachineSpec { origin: Origin::Saved(saved), ..spec };
    let error = bench.engine.create(spec).err().expect("refused").to_string();
    assert!(error.contains("restore") && error.contains("has a network"), "{error}");
}

#[test]
fn without_an_image_the_rootfs_is_an_empty_disk() {
    let bench = Bench::new();
    let _stream = bench.machine("").start().unwrap();
    let disk = format!("disk=rootfs:ro:{}", bench.path("cache/vz/empty.img").display());
    assert!(bench.given().contains(&disk), "{:?}", bench.given());
}

#[test]
fn a_refused_configuration_names_what_is_wrong() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut MachineSpec)| {
        let mut spec = bench.spec("");
        change(&mut spec);
        bench.engine.create(spec).err().expect("it is refused").to_string()
    };
    assert!(refused(&|s| s.vcpus = 9).contains("9 virtual CPUs: 1 to 8"));
    assert!(refused(&|s| s.memory_mib = 1).contains("1 MiB of memory: 64 to 16384"));
    assert!(refused(&|s| s.cmdline = "x".repeat(2000)).contains("kernel command line"));
    assert!(refused(&|s| s.kernel = "/nonexistent".into()).contains("kernel /nonexistent"));
    fs::write(bench.path("odd"), "x").unwrap();
    let odd = refused(&|s| s.rootfs = Some(bench.path("odd")));
    assert!(odd.contains("rootfs image") && odd.contains("odd") && odd.contains("multiple of 512"), "{odd}");
    let odd = |s: &mut MachineSpec| {
        s.disks = vec![Disk { serial: "a".into(), path: bench.path("odd"), read_only: true }];
    };
    assert!(refused(&odd).contains("disk image"));
    let many = |s: &mut MachineSpec| {
        s.shares = (0..17)
            .map(|i| Share { tag: format!("t{i}"), path: bench.path("root"), read_only: true, owner: None })
            .collect();
    };
    assert!(refused(&many).contains("at most 16"));
    assert!(refused(&|s| s.cmdline = "standin.invalid".into()).contains("asked not to like it"));
    let no_network = |s: &mut MachineSpec| {
        s.network = Network::Nat;
        s.cmdline = "standin.no-network".into();
    };
    assert!(refused(&no_network).contains("network device"));
}

#[test]
fn a_missing_entitlement_is_recognised_with_the_remedy() {
    let bench = Bench::new();
    let error = bench.engine.create(bench.spec("standin.unsigned")).err().expect("it is refused");
    assert!(matches!(&error, Error::Unavailable { reason, .. } if reason.contains("codesign")), "{error}");
}

#[test]
fn a_start_that_fails_ends_the_machine() {
    let (error, end) = Bench::new().fails("standin.start=fail");
    assert!(error.contains("starting a machine") && error.contains("failed to start"), "{error}");
    assert!(matches!(end, MachineEnd::Failed(cause) if cause.contains("failed to start")));
}

#[test]
fn what_vz_throws_is_an_error_and_the_program_goes_on() {
    let bench = Bench::new();
    let error = bench.engine.create(bench.spec("standin.make=throw")).err().expect("it is refused");
    assert!(error.to_string().contains("configuration was asked to throw"), "{error}");
    let (error, end) = bench.fails("standin.start=throw");
    assert!(error.contains("starting a machine") && error.contains("machine was asked to throw"), "{error}");
    assert!(matches!(end, MachineEnd::Failed(_)));
    let machine = bench.machine("");
    assert_answers(&machine.start().unwrap());
}

#[test]
fn a_guest_that_ends_before_its_agent_came_is_quoted() {
    let (error, end) = Bench::new().fails("guest=crash");
    assert!(error.contains("stopped unexpectedly") && error.contains("last words of the guest"), "{error}");
    assert!(matches!(end, MachineEnd::Failed(_)));
    let (error, end) = Bench::new().fails("guest=off");
    assert!(error.contains("powered off"), "{error}");
    assert_eq!(end, MachineEnd::PoweredOff);
    let (error, end) = Bench::new().fails("guest=panic");
    assert!(error.contains("kernel gave up") && error.contains("made up"), "{error}");
    assert!(matches!(end, MachineEnd::Failed(_)));
    // One that begins anew after that, as often as it likes, is not waited for.
    let (error, end) = Bench::new().fails("guest=reboot");
    assert!(error.contains("kernel gave up") && error.contains("made up"), "{error}");
    assert!(matches!(end, MachineEnd::Failed(cause) if cause.contains("made up")));
}

#[test]
fn a_workload_that_says_that_the_kernel_gave_up_is_not_believed() {
    let bench = Bench::new();
    let file = Arc::new(fs::File::create_new(bench.path("console")).unwrap());
    let spec = MachineSpec { vsock: true, console: Console::File(file), ..bench.spec("") };
    let machine = bench.engine.create(spec).unwrap();
    let stream = machine.start().unwrap();
    wait_closed(machine.vsock_connect(11).unwrap());
    let deadline = Instant::now() + LIMIT;
    while !fs::read_to_string(bench.path("console")).unwrap().contains("made up") {
        assert!(Instant::now() < deadline, "it says nothing");
        thread::yield_now();
    }
    assert_answers(&stream);
    assert_eq!(machine.end().get(), None);
}

#[test]
fn a_stop_ends_a_start_that_waits() {
    // The guest runs and says nothing; VZ has begun a start that it does not finish.
    for (words, begun) in [("guest=silent", "root/machine"), ("standin.start=hang", "initramfs.starting")] {
        let bench = Bench::new();
        let machine = bench.machine(words);
        let starter = {
            let machine = machine.clone();
            thread::spawn(move || machine.start().map(drop))
        };
        let deadline = Instant::now() + LIMIT;
        while !bench.path(begun).exists() {
            assert!(Instant::now() < deadline, "it does not start");
            thread::yield_now();
        }
        machine.stop();
        let error = starter.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("stopped"), "{error}");
        assert_eq!(machine.end().wait(), MachineEnd::Stopped);
    }
}

#[test]
fn a_machine_that_was_stopped_does_not_start() {
    let bench = Bench::new();
    let machine = bench.machine("");
    machine.stop();
    assert_eq!(machine.end().wait(), MachineEnd::Stopped);
    assert!(machine.start().unwrap_err().to_string().contains("stopped before"));
}

#[test]
fn the_end_of_the_agent_is_the_end_of_the_machine() {
    let bench = Bench::new();
    let machine = bench.machine("");
    let stream = machine.start().unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(machine.end().wait_until(Instant::now() + LIMIT), Some(MachineEnd::PoweredOff));
    assert!(machine.resume().unwrap_err().to_string().contains("powered off"));
}

#[test]
fn a_machine_is_paused_and_resumed() {
    let bench = Bench::new();
    let machine = bench.machine("");
    let stream = machine.start().unwrap();
    assert!(machine.resume().is_err(), "it runs");
    machine.pause().unwrap();
    assert!(machine.pause().is_err(), "it is paused");
    machine.resume().unwrap();
    assert_answers(&stream);
    machine.pause().unwrap();
    machine.stop();
    assert_eq!(machine.end().wait(), MachineEnd::Stopped);
}

#[test]
fn a_saved_machine_is_restored_and_is_the_same_machine() {
    let bench = Bench::new();
    let machine = bench.machine("");
    let _stream = machine.start().unwrap();
    let folder = bench.folder("saved");
    assert!(machine.save(&folder).is_err(), "it is not paused");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    machine.pause().unwrap();
    let saved = Saved { state: machine.save(&folder).unwrap(), folder };
    machine.resume().unwrap();
    machine.stop();

    let restored = |change: &dyn Fn(&mut MachineSpec)| {
        let mut spec = MachineSpec { origin: Origin::Saved(saved.clone()), ..bench.spec("") };
        change(&mut spec);
        bench.engine.create(spec)
    };
    // As often and as many at once as wanted, with another image behind the rootfs's device.
    let machines: Vec<_> =
        (0..3).map(|_| restored(&|s| s.rootfs = Some(bench.path("image"))).unwrap()).collect();
    let streams: Vec<_> = machines.iter().map(|machine| machine.start().unwrap()).collect();
    streams.iter().for_each(assert_answers);
    assert!(bench.given().contains(&"restored=0".to_owned()));
    // Another shape is another machine.
    let error = restored(&|s| s.vcpus = 1).err().expect("refused").to_string();
    assert!(error.contains("vcpus=2") && error.contains("vcpus=1"), "{error}");
    let share = Share { tag: "a".into(), path: bench.path("root"), read_only: true, owner: None };
    let error = restored(&|s| s.shares = vec![share.clone()]).err().expect("refused");
    assert!(matches!(error, Error::Unsupported { operation: "restore", .. }), "{error}");
}

#[test]
fn a_state_that_vz_refuses_is_the_snapshots_fault() {
    let bench = Bench::new();
    let machine = bench.machine("");
    let _stream = machine.start().unwrap();
    machine.pause().unwrap();
    let folder = bench.folder("saved");
    let saved = Saved { state: machine.save(&folder).unwrap(), folder };
    machine.stop();
    let state = saved.folder.join("state");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("cpus=2", "cpus=3")).unwrap();
    let spec = MachineSpec { origin: Origin::Saved(saved), ..bench.spec("") };
    let machine = bench.engine.create(spec).unwrap();
    let error = machine.start().unwrap_err();
    assert!(
        matches!(&error, Error::Snapshot { reason, .. } if reason.contains("failed to restore")),
        "{error}"
    );
    assert!(matches!(machine.end().wait(), MachineEnd::Failed(_)));
}

#[test]
fn a_machine_that_cannot_be_saved_says_why_and_goes_on() {
    let bench = Bench::new();
    let share = Share { tag: "a".into(), path: bench.path("root"), read_only: true, owner: None };
    let with_share = MachineSpec { shares: vec![share], ..bench.spec("") };
    assert!(
        bench.engine.probe(&with_share).unwrap().snapshots.refusal().unwrap().contains("shares or disks")
    );
    let machine = bench.engine.create(with_share).unwrap();
    let _stream = machine.start().unwrap();
    machine.pause().unwrap();
    let error = machine.save(&bench.folder("saved")).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { operation: "save", .. }), "{error}");
    let machine = bench.machine("standin.save=fail");
    let _stream = machine.start().unwrap();
    machine.pause().unwrap();
    let error = machine.save(&bench.folder("failed")).unwrap_err().to_string();
    assert!(error.contains("failed to save"), "{error}");
    machine.resume().unwrap();
}

#[test]
fn the_console_is_passed_on() {
    let bench = Bench::new();
    let file = Arc::new(fs::File::create_new(bench.path("console")).unwrap());
    let spec = MachineSpec { console: Console::File(file), ..bench.spec("guest=crash") };
    let machine = bench.engine.create(spec).unwrap();
    machine.start().unwrap_err();
    machine.end().wait();
    assert_eq!(fs::read_to_string(bench.path("console")).unwrap(), "last words of the guest\n");
}

#[test]
fn eight_machines_run_at_once_and_none_leaves_a_descriptor() {
    let before = open_files();
    let bench: Vec<_> = (0..8).map(|_| Bench::new()).collect();
    let machines: Vec<_> = bench.iter().map(|bench| bench.machine("")).collect();
    let starters: Vec<_> = machines
        .iter()
        .map(|machine| {
            let machine = machine.clone();
            thread::spawn(move || machine.start().unwrap())
        })
        .collect();
    let streams: Vec<_> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
    streams.iter().for_each(assert_answers);
    let ends: Vec<_> = machines.iter().map(|machine| machine.end()).collect();
    // Half of them are stopped, half only dropped.
    machines.iter().step_by(2).for_each(|machine| machine.stop());
    drop(machines);
    for end in ends {
        assert_eq!(end.wait_until(Instant::now() + LIMIT), Some(MachineEnd::Stopped));
    }
    for stream in streams {
        wait_closed(stream);
    }
    drop(bench);
    let deadline = Instant::now() + LIMIT;
    // The last references go on the queues, after the ends were reported.
    while open_files() > before && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(open_files(), before);
}

#[test]
fn a_machine_that_is_dropped_without_a_start_leaves_nothing() {
    let before = open_files();
    for _ in 0..20 {
        let bench = Bench::new();
        drop(bench.machine(""));
    }
    let deadline = Instant::now() + LIMIT;
    while open_files() > before && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(open_files(), before);
}

#[test]
fn capabilities_say_what_this_mac_offers() {
    let bench = Bench::new();
    let capabilities = bench.engine.probe(&bench.spec("")).unwrap();
    assert!(capabilities.engine.contains("macOS Version 14.5"), "{}", capabilities.engine);
    assert_eq!(capabilities.snapshots, Support::Yes);
    assert_eq!(capabilities.max_vcpus, 8);
    assert_eq!(bench.engine.try_shares(), Support::Yes);
    for support in [capabilities.vsock, capabilities.nat, capabilities.frames] {
        assert_eq!(support, Support::Yes);
    }
    let kvm = MachineSpec { accelerator: AcceleratorChoice::Kvm, ..bench.spec("") };
    assert!(matches!(bench.engine.probe(&kvm), Err(Error::Unavailable { .. })));
    let base = bench.engine.fingerprint(&bench.spec("")).unwrap();
    let other = MachineSpec { rootfs: Some("/x".into()), ..bench.spec("other") };
    assert_eq!(bench.engine.fingerprint(&other).unwrap(), base);
    assert_ne!(bench.engine.fingerprint(&MachineSpec { memory_mib: 512, ..bench.spec("") }).unwrap(), base);
}
