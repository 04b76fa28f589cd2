//! A network in real machines. QEMU grants none, since it cannot keep a guest away from the host; here it has one that leads
//! nowhere but to its own DHCP server and to a socket of the test, so that everything above the engine is tried: the
//! drivers, the client in the guest, its root, the report.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vmette::engine_api::{
    Capabilities, Frames, Framing, Hypervisor, Mac, Machine, MachineSpec, Network, Result, Support,
};
use vmette::{
    Config, ConfigError, Error, ExecOptions, Session, SessionEnd, StartedFrom, StopHandle, WorkloadStrategy,
};
use vmette_qemu::{Qemu, QemuOptions};

use crate::suite::Bench;

const KEEP: usize = 1 << 20;

/// QEMU with a network device in every machine, and the promise to keep the guest to itself.
struct Networked(Qemu);

impl Networked {
    fn bench(arguments: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("qemu");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -version ] || set -- \"$@\" {arguments} \
             -device virtio-net-pci,netdev=net,mac=02:00:00:00:00:07,romfile=\n\
             exec qemu-system-{} \"$@\"\n",
            std::env::consts::ARCH
        );
        let written = dir.path().join("new");
        fs::write(&written, script).unwrap();
        fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(written, &binary).unwrap();
        let qemu = Qemu::with_options(QemuOptions { binary: Some(binary), ..QemuOptions::default() });
        Bench::new(dir, Some(Arc::new(Self(qemu))))
    }
}

impl Hypervisor for Networked {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        Ok(Capabilities { nat: Support::Yes, ..self.0.probe(spec)? })
    }

    fn try_shares(&self) -> Support {
        self.0.try_shares()
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        self.0.fingerprint(spec)
    }

    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()> {
        self.0.boot_failed(spec, reason)
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        assert!(matches!(spec.network, Network::Nat));
        self.0.create(MachineSpec { network: Network::None, ..spec })
    }
}

/// With the kernel and the built-in root of all tests with real machines.
fn config() -> Config {
    let shared = Bench::new(tempfile::tempdir().unwrap(), None).config();
    shared.with(|c| {
        c.grants.net = true;
        c.command.workload = WorkloadStrategy::Agent;
    })
}

fn shell(session: &Session, script: &str) -> String {
    let all = session.exec(&ExecOptions::shell(script)).unwrap().collect(KEEP).unwrap();
    assert_eq!(all.status.code(), 0, "{script}: {}", String::from_utf8_lossy(&all.stderr));
    String::from_utf8(all.stdout).unwrap()
}

/// The guest reaches what is at 10.0.2.100:7, which is this socket.
fn closed_network(socket: &Path) -> String {
    format!(
        "-chardev socket,id=fwd,path={} \
         -netdev user,id=net,restrict=on,domainname=lan.example,guestfwd=tcp:10.0.2.100:7-chardev:fwd",
        socket.display()
    )
}

#[test]
fn a_granted_network_has_an_address_and_name_servers_and_carries_data() {
    for read_only in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let bench = Networked::bench(&closed_network(&socket));
        let session = bench.start(&config().with(|c| c.root.read_only = read_only)).unwrap();
        let report = session.report();
        assert_eq!((report.started_from, report.grants.network), (StartedFrom::Cold, true));
        let address = shell(&session, "ip -4 -o address show dev eth0");
        assert!(address.contains("inet 10.0.2.15/24"), "{address}");
        // A network that leads nowhere has neither a router nor name servers, and none are made up.
        let routes = shell(&session, "ip route");
        assert!(routes.lines().count() == 1 && routes.contains("10.0.2.0/24 dev eth0"), "{routes}");
        let servers = shell(&session, "grep -v '^#' /etc/resolv.conf");
        assert_eq!(servers, "search lan.example\n", "read-only root: {read_only}");
        // What keeps the lease is out of the workload's reach.
        assert!(!shell(&session, "ps -o comm").contains("vmette-network"));
        let talk = "echo hello; read -r word; echo \"$word\" >&2";
        let nc = ["nc", "10.0.2.100", "7", "-e", "sh", "-c", talk];
        let sent = session.exec(&ExecOptions::argv(nc)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 6];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello\n");
        stream.write_all(b"and back\n").unwrap();
        let got = sent.collect(KEEP).unwrap();
        assert_eq!(got.stderr, b"and back\n", "{got:?}");
        session.stop();
    }
}

#[test]
fn a_network_without_a_server_is_an_error_of_the_run() {
    let bench = Networked::bench("-netdev hubport,id=net,hubid=0");
    let error = bench.start(&config()).expect_err("there is no address to be had");
    assert!(
        matches!(&error, Error::StartFailed(reason) if reason.to_string().contains("the network: no DHCP server answered")),
        "{error}"
    );
}

#[test]
fn qemu_itself_grants_no_network_and_says_so_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let config = config().with(|c| c.host.cache_dir = Some(cache.clone()));
    let error = Session::start(&config).expect_err("refused");
    assert!(
        matches!(&error, Error::InvalidConfig(ConfigError::NoNetwork { reason }) if !reason.is_empty()),
        "{error}"
    );
    let made: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name == "kernel" || name == "images"), "{made:?}");
    let spec = MachineSpec { network: Network::Nat, ..bare() };
    let error = Qemu::discover().create(spec).err().expect("refused").to_string();
    assert!(error.starts_with("network: "), "{error}");
}

/// QEMU whose machines send their frames to a socket of the test.
struct Wired {
    engine: Qemu,
    socket: Arc<OwnedFd>,
}

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

impl Hypervisor for Wired {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        let capabilities = self.engine.probe(spec)?;
        assert_eq!((&capabilities.frames, capabilities.framing), (&Support::Yes, Framing::LengthPrefixed));
        Ok(Capabilities { nat: Support::Yes, ..capabilities })
    }

    fn try_shares(&self) -> Support {
        self.engine.try_shares()
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        self.engine.fingerprint(spec)
    }

    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()> {
        self.engine.boot_failed(spec, reason)
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        let network = Network::Frames(Frames { socket: self.socket.clone(), mac: MAC });
        self.engine.create(MachineSpec { network, ..spec })
    }
}

/// The next frame, with its length in front as QEMU sends it.
fn next_frame(mut socket: &UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    assert!((14..=2048).contains(&frame.len()), "{}", frame.len());
    socket.read_exact(&mut frame)?;
    Ok(frame)
}

#[test]
fn frames_of_the_guest_arrive_at_the_other_end_of_the_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let engine = Wired { engine: Qemu::discover(), socket: Arc::new(theirs.into()) };
    let bench = Bench::new(tempfile::tempdir().unwrap(), Some(Arc::new(engine)));
    let stop = StopHandle::new();
    std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            let config = config();
            bench.start_with(&config, &stop)
        });
        // The guest asks for an address: IPv4, UDP, from the port of a DHCP client to that of a server.
        let asks =
            |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..38] == [0, 68, 0, 67];
        let frame = loop {
            let frame = next_frame(&ours).unwrap();
            if frame.len() > 38 && asks(&frame) {
                break frame;
            }
        };
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &MAC.0[..]));
        stop.stop();
        // It ends as it was told to, in the middle of its start.
        let ended = session.join().unwrap();
        assert!(matches!(ended, Err(Error::Ended(SessionEnd::Stopped))), "{ended:?}");
    });
}

fn bare() -> MachineSpec {
    let accelerator = vmette::engine_api::AcceleratorChoice::Tcg;
    MachineSpec { accelerator, ..MachineSpec::new("/bin/sh", "/bin/sh") }
}
