//! The network in a network namespace: against a real DHCP server, and against one that says whatever a test wants. Each
//! test starts itself once more, as root of a namespace of its own.

use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv};

use super::dhcp::tests::{ACK, CLIENT, NAK, OFFER, Reply};
use super::*;

/// Set in the namespace.
const INSIDE: &str = "VMETTE_GUEST_TEST_NAMESPACE";

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Numbers of options.
const T1: u8 = 58;
const T2: u8 = 59;
const LEASE: u8 = 51;
const REQUESTED: u8 = 50;

/// Runs `body` in namespaces of its own, where it is root. Everything in them ends with it.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    let possible = Command::new("unshare").args(unshare.get_args()).arg("true").output().unwrap();
    if !possible.status.success() && !rustix::process::geteuid().is_root() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&possible.stderr));
        return;
    }
    let done = unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("net::tests::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The machine's end of a cable, named `eth0`, whose other end is `srv0`.
fn cable() -> Link {
    ip("link add eth0 address 02:00:00:00:00:07 type veth peer name srv0");
    Link { index: index_of("eth0"), address: CLIENT }
}

fn index_of(name: &str) -> u32 {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::netdevice::name_to_index(&socket, name).unwrap()
}

fn lease(link: &Link, limit: Duration) -> Result<(Network, Granted), NetError> {
    Network::lease(Links::open().unwrap(), link, "vm-7", limit)
}

/// busybox's `udhcpd`, in a network namespace of its own at the other end of the cable.
struct Udhcpd {
    process: Child,
    _stdin: ChildStdin,
    log: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _dir: tempfile::TempDir,
}

impl Udhcpd {
    fn start(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, leases) = (dir.path().join("conf"), dir.path().join("leases"));
        std::fs::write(&leases, "").unwrap();
        let text = format!(
            "start 192.168.64.20\nend 192.168.64.29\ninterface srv0\nlease_file {}\nmin_lease 1\n\
             opt subnet 255.255.255.0\nopt router 192.168.64.1\nopt dns 192.168.64.1 192.168.64.2\n\
             opt domain lan.example\nopt mtu 1400\n{options}\n",
            leases.display()
        );
        std::fs::write(&config, text).unwrap();
        let script = format!("echo there; read go; exec busybox udhcpd -f {} 2>&1", config.display());
        let mut process = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(log.next().unwrap().unwrap(), "there");
        let pid = process.id();
        ip(&format!("link set srv0 netns {pid}"));
        for command in ["address add 192.168.64.1/24 dev srv0", "link set srv0 up"] {
            let net = format!("--net=/proc/{pid}/ns/net");
            let done = Command::new("nsenter").arg(net).arg("ip").args(command.split(' ')).status().unwrap();
            assert!(done.success(), "{command}");
        }
        stdin.write_all(b"go\n").unwrap();
        Self { process, _stdin: stdin, log, _dir: dir }
    }

    /// Waits until the server says that.
    fn wait_for(&mut self, words: &str) {
        let line = self.log.find(|line| line.as_ref().unwrap().contains(words));
        assert!(line.is_some(), "the server has ended");
    }
}

impl Drop for Udhcpd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_server_gives_address_route_name_servers_and_more_time() {
    alone("a_real_server_gives_address_route_name_servers_and_more_time", || {
        let link = cable();
        // Renewed after a second, at an end far enough away for the slowest machine.
        let mut server = Udhcpd::start("opt lease 60\nopt 0x3a 00000001\nopt 0x3b 00000030");
        let first = Links::open().unwrap().first_ethernet().unwrap();
        assert_eq!(first.as_ref(), Some(&link), "the server's end is elsewhere");
        let (mut network, granted) = lease(&link, LIMIT).unwrap();
        server.wait_for("sending ACK");
        let address = granted.lease.address;
        let addresses = ip("-4 -o address show dev eth0");
        assert!(addresses.contains(&format!("inet {address}/24 brd 192.168.64.255")), "{addresses}");
        // The kernel takes the address away by itself when nobody renews it.
        assert!(addresses.contains("valid_lft ") && !addresses.contains("forever"), "{addresses}");
        let routes = ip("route show default");
        assert_eq!(routes.trim(), "default via 192.168.64.1 dev eth0 proto dhcp");
        assert!(ip("link show dev eth0").contains("mtu 1400"));
        let text = name_servers(&granted.lease);
        let expected = "search lan.example\nnameserver 192.168.64.1\nnameserver 192.168.64.2\n";
        assert!(text.ends_with(expected), "{text}");

        let renewed = match network.dhcp.renew(&granted).unwrap() {
            Renewal::Renewed(renewed) => renewed,
            Renewal::Lost => panic!("the server knows the lease"),
        };
        server.wait_for("sending ACK");
        assert!(renewed.since > granted.since && renewed.lease == granted.lease);
        network.apply(&renewed).unwrap();
        assert_eq!(ip("-4 -o address show dev eth0").lines().count(), 1);
        network.drop_address(&renewed.lease).unwrap();
        network.drop_address(&renewed.lease).unwrap();
        assert_eq!(ip("-4 address show dev eth0") + &ip("route show"), "");
    });
}

#[test]
fn without_a_server_there_is_an_error_when_the_time_is_up() {
    alone("without_a_server_there_is_an_error_when_the_time_is_up", || {
        let link = cable();
        ip("link set srv0 up");
        let error = lease(&link, Duration::from_secs(1)).unwrap_err().to_string();
        assert_eq!(error, "no DHCP server answered within 1 s");
        assert_eq!(ip("-4 address show dev eth0"), "");
    });
}

/// A client's message, as far as servers look at it.
#[derive(Debug, Clone)]
struct Asked {
    kind: u8,
    transaction: u32,
    client: [u8; 6],
    /// The address that it says it has.
    has: Ipv4Addr,
    message: Vec<u8>,
}

impl Asked {
    fn of(packet: &[u8]) -> Self {
        let message = packet[28..].to_vec();
        Self {
            kind: message[242],
            transaction: u32::from_be_bytes(message[4..8].try_into().unwrap()),
            client: message[28..34].try_into().unwrap(),
            has: Ipv4Addr::from(<[u8; 4]>::try_from(&message[12..16]).unwrap()),
            message,
        }
    }

    fn reply(&self, kind: u8) -> Reply {
        Reply { kind, transaction: self.transaction, client: self.client, ..Reply::offer() }
    }

    fn is_discover(&self) -> bool {
        self.kind == 1
    }
}

/// A server at the other end of the cable that sends what `answer` makes of each question. It ends with the test.
fn server(mut answer: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Arc<Mutex<Vec<Asked>>> {
    ip("link set srv0 up");
    let interface = index_of("srv0");
    let socket = sys::packet_socket(interface, 67).unwrap();
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let noted = asked.clone();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            poll(&mut [PollFd::new(&socket, PollFlags::IN)], None).unwrap();
            // The cable's other end may not be up yet.
            let Ok((length, _)) = recv(&socket, &mut buffer, RecvFlags::empty()) else { continue };
            let question = Asked::of(&buffer[..length]);
            noted.lock().unwrap().push(question.clone());
            for packet in answer(&question) {
                sys::packet_send(&socket, interface, [0xff; 6], &packet).unwrap();
            }
        }
    });
    asked
}

#[test]
fn a_hostile_crowd_does_not_hide_the_one_server_that_makes_sense() {
    alone("a_hostile_crowd_does_not_hide_the_one_server_that_makes_sense", || {
        let link = cable();
        let asked = server(|question| {
            let good = question.reply(if question.is_discover() { OFFER } else { ACK });
            let mut crowd = Vec::new();
            let mut others = |change: &dyn Fn(&mut Reply)| {
                let mut reply = good.clone();
                change(&mut reply);
                crowd.push(reply.packet());
            };
            others(&|r| r.transaction ^= 1);
            others(&|r| r.client = [6; 6]);
            others(&|r| r.kind = 77);
            if question.is_discover() {
                others(&|r| r.address = [0; 4]);
                others(&|r| r.address = [255; 4]);
                others(&|r| r.address = [224, 0, 0, 1]);
                others(&|r| r.set(1, &[0; 4]));
                others(&|r| r.set(3, &[10, 0, 0, 1]));
                others(&|r| r.set(LEASE, &[0; 4]));
                others(&|r| r.set(54, &[255; 4]));
                others(&|r| r.kind = ACK);
                others(&|r| r.kind = NAK);
            } else {
                // Another server's word does not count.
                others(&|r| r.set(54, &[192, 168, 64, 66]));
                others(&|r| r.kind = OFFER);
            }
            let sound = good.packet();
            let mut broken = [sound.clone(), sound.clone(), sound.clone(), vec![0x45; 28], vec![0xff; 1400]];
            broken[0].truncate(200);
            // The datagram is longer than the packet, and so is an option.
            broken[1][24] = 0xff;
            broken[2][28 + 241] = 0xff;
            // To the port all the same, or no filter lets it through.
            for packet in &mut broken {
                packet[22..24].copy_from_slice(&68u16.to_be_bytes());
                packet[9] = 17;
                packet[6] = 0;
            }
            crowd.extend(broken);
            crowd.push(sound);
            crowd
        });
        let (_, granted) = lease(&link, LIMIT).unwrap();
        assert_eq!(granted.lease.address, Ipv4Addr::new(192, 168, 64, 7));
        assert_eq!(granted.lease.server, Ipv4Addr::new(192, 168, 64, 1));
        assert!(ip("-4 -o address show dev eth0").contains("192.168.64.7/24"));
        let asked = asked.lock().unwrap();
        let [.., discover, request] = &asked[..] else { panic!("{asked:?}") };
        assert!(discover.is_discover() && discover.client == CLIENT);
        assert!(discover.message.windows(6).any(|w| w == b"\x0c\x04vm-7"));
        assert!(request.message.windows(6).any(|w| w == [REQUESTED, 4, 192, 168, 64, 7]));
    });
}

#[test]
fn the_error_names_what_was_wrong_with_the_last_offer() {
    alone("the_error_names_what_was_wrong_with_the_last_offer", || {
        let link = cable();
        server(|question| {
            let mut offer = question.reply(OFFER);
            offer.set(1, &[0; 4]);
            vec![offer.packet()]
        });
        let error = lease(&link, Duration::from_secs(3)).unwrap_err().to_string();
        assert!(error.contains("no usable offer") && error.contains("subnet mask 0.0.0.0"), "{error}");
        assert_eq!(ip("-4 address show dev eth0"), "");
    });
}

#[test]
fn a_flood_does_not_put_the_end_off() {
    alone("a_flood_does_not_put_the_end_off", || {
        let link = cable();
        let (stop, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let flood = stop.clone();
        server(move |question| {
            let mut offer = question.reply(OFFER);
            offer.transaction ^= 1;
            let packet = offer.packet();
            let interface = index_of("srv0");
            let socket = sys::packet_socket(interface, 67).unwrap();
            while !flood.load(Ordering::Relaxed) {
                // A full queue is a flood all the same.
                let _ = sys::packet_send(&socket, interface, [0xff; 6], &packet);
            }
            stopped.store(true, Ordering::Relaxed);
            Vec::new()
        });
        let error = lease(&link, Duration::from_secs(2)).unwrap_err();
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(error, NetError::Dhcp(DhcpError::NoAnswer { .. })), "{error}");
    });
}

#[test]
fn an_offer_that_is_taken_back_is_followed_by_another_question() {
    alone("an_offer_that_is_taken_back_is_followed_by_another_question", || {
        let link = cable();
        let mut refusals = 1;
        let asked = server(move |question| {
            let kind = match (question.is_discover(), refusals) {
                (true, _) => OFFER,
                (false, 0) => ACK,
                (false, _) => {
                    refusals -= 1;
                    NAK
                }
            };
            vec![question.reply(kind).packet()]
        });
        let (_, granted) = lease(&link, LIMIT).unwrap();
        assert_eq!(granted.lease.address, Ipv4Addr::new(192, 168, 64, 7));
        let asked = asked.lock().unwrap();
        let mut kinds: Vec<_> = asked.iter().map(|asked| asked.kind).collect();
        // On a slow machine it is asked again before it has answered.
        kinds.dedup();
        assert_eq!(kinds, [1, 3, 1, 3]);
        assert_ne!(asked[0].transaction, asked[asked.len() - 1].transaction);
    });
}

#[test]
fn a_lease_that_is_lost_is_followed_by_another_with_another_address() {
    alone("a_lease_that_is_lost_is_followed_by_another_with_another_address", || {
        let link = cable();
        let mut host = 7;
        let asked = server(move |question| {
            // It is asked by name after a second, and nobody is there; then everybody is asked.
            if !question.has.is_unspecified() {
                host += 1;
                return vec![question.reply(NAK).packet()];
            }
            let mut reply = question.reply(if question.is_discover() { OFFER } else { ACK });
            reply.address = [192, 168, 64, host];
            reply.set(T1, &1u32.to_be_bytes());
            reply.set(T2, &2u32.to_be_bytes());
            vec![reply.packet()]
        });
        let (mut network, granted) = lease(&link, LIMIT).unwrap();
        let next = network.next(&granted).unwrap();
        assert_eq!(next.lease.address, Ipv4Addr::new(192, 168, 64, 8));
        let addresses = ip("-4 -o address show dev eth0");
        assert!(addresses.lines().count() == 1 && addresses.contains("192.168.64.8/24"), "{addresses}");
        assert!(ip("route show default").contains("via 192.168.64.1"));
        let asked = asked.lock().unwrap();
        assert!(asked.iter().any(|asked| asked.has == granted.lease.address));
    });
}
