//! Answers of servers, honest and hostile.

use super::super::message::{Client, Question};
use super::super::tests::{CLIENT, Reply, TRANSACTION};
use super::*;

fn client() -> Client {
    Client { address: CLIENT, hostname: "vm".into() }
}

fn lease(change: impl FnOnce(&mut Reply)) -> Result<Lease, Refusal> {
    let mut reply = Reply::offer();
    change(&mut reply);
    let packet = reply.packet();
    Lease::of(&Answer::parse(&packet, &client(), TRANSACTION).expect("an answer to the question"))
}

#[test]
fn a_whole_offer_is_read() {
    let lease = lease(|reply| {
        reply.set(option::NAME_SERVERS, &[192, 168, 64, 1, 8, 8, 4, 4]);
        reply.set(option::DOMAIN_NAME, b"lan.example");
        reply.set(option::MTU, &1400u16.to_be_bytes());
    });
    let expected = Lease {
        address: Ipv4Addr::new(192, 168, 64, 7),
        prefix: 24,
        router: Some(Ipv4Addr::new(192, 168, 64, 1)),
        name_servers: vec![Ipv4Addr::new(192, 168, 64, 1), Ipv4Addr::new(8, 8, 4, 4)],
        domain: Some("lan.example".into()),
        mtu: Some(1400),
        server: Ipv4Addr::new(192, 168, 64, 1),
        term: Some(Term { renew: 1800, rebind: 3150, end: 3600 }),
        ignored: Vec::new(),
    };
    assert_eq!(lease.unwrap(), expected);
}

#[test]
fn what_a_network_need_not_have_may_be_missing() {
    let lease = lease(|reply| {
        reply.remove(option::ROUTER);
        reply.remove(option::NAME_SERVERS);
    })
    .unwrap();
    assert_eq!((lease.router, lease.name_servers, lease.domain, lease.mtu), (None, Vec::new(), None, None));
    assert!(lease.ignored.is_empty());
}

#[test]
fn addresses_that_no_machine_can_have_are_refused() {
    for address in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [169, 254, 1, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        // The network's, and everybody's.
        [192, 168, 64, 0],
        [192, 168, 64, 255],
    ] {
        assert_eq!(lease(|r| r.address = address), Err(Refusal::Address(address.into())), "{address:?}");
    }
    for server in [[0, 0, 0, 0], [127, 0, 0, 1], [255, 255, 255, 255], [239, 1, 1, 1]] {
        assert_eq!(lease(|r| r.set(option::SERVER, &server)), Err(Refusal::Address(server.into())));
    }
}

#[test]
fn masks_are_leading_ones_and_not_of_half_the_internet() {
    for mask in
        [[0, 0, 0, 0], [128, 0, 0, 0], [254, 0, 0, 0], [255, 0, 255, 0], [255, 255, 255, 255], [0, 0, 0, 255]]
    {
        assert_eq!(lease(|r| r.set(option::SUBNET_MASK, &mask)), Err(Refusal::Mask(mask.into())), "{mask:?}");
    }
    let wide = lease(|r| r.set(option::SUBNET_MASK, &[255, 0, 0, 0])).unwrap();
    assert_eq!(wide.prefix, 8);
}

#[test]
fn routers_are_neighbours() {
    for router in
        [[192, 168, 65, 1], [192, 168, 64, 7], [192, 168, 64, 0], [192, 168, 64, 255], [0; 4], [127, 0, 0, 1]]
    {
        let refused = lease(|r| r.set(option::ROUTER, &router));
        assert!(matches!(refused, Err(Refusal::Router { .. })), "{router:?}: {refused:?}");
    }
    // The first of two counts.
    let two = lease(|r| r.set(option::ROUTER, &[192, 168, 64, 2, 0, 0, 0, 0])).unwrap();
    assert_eq!(two.router, Some(Ipv4Addr::new(192, 168, 64, 2)));
}

#[test]
fn options_of_another_length_than_they_have_are_refused() {
    for (number, data) in [
        (option::SUBNET_MASK, &[255, 255, 255][..]),
        (option::SUBNET_MASK, &[255, 255, 255, 0, 0]),
        (option::ROUTER, &[192, 168, 64]),
        (option::ROUTER, &[192, 168, 64, 1, 192]),
        (option::ROUTER, &[]),
        (option::SERVER, &[1]),
        (option::LEASE_TIME, &[0, 0, 1]),
    ] {
        let refused = lease(|r| r.set(number, data));
        assert!(matches!(refused, Err(Refusal::Missing(_))), "{number} {data:?}: {refused:?}");
    }
    for number in [option::SUBNET_MASK, option::SERVER, option::LEASE_TIME] {
        assert!(matches!(lease(|r| r.remove(number)), Err(Refusal::Missing(_))), "{number}");
    }
}

#[test]
fn nonsense_that_the_network_works_without_is_left_out_and_noted() {
    let ignored = |number, data: &[u8]| {
        let lease = lease(|r| r.set(number, data)).unwrap();
        assert_eq!(lease.ignored.len(), 1, "{number} {data:?}");
        lease
    };
    for mtu in [&[0, 0][..], &[0, 68], &[0xff, 0xff], &[1], &[5, 220, 0]] {
        assert_eq!(ignored(option::MTU, mtu).mtu, None);
    }
    for domain in [&b"a\nnameserver 6.6.6.6"[..], b"a b", b"..", b"", b"a..b", b"\xff", b"a#b", &[b'a'; 64]] {
        assert_eq!(ignored(option::DOMAIN_NAME, domain).domain, None);
    }
    let bad = [127, 0, 0, 1, 0, 0, 0, 0, 255, 255, 255, 255];
    assert!(ignored(option::NAME_SERVERS, &bad).name_servers.is_empty());
    let odd = ignored(option::NAME_SERVERS, &[9, 9, 9, 9, 8]);
    assert_eq!(odd.name_servers, [Ipv4Addr::new(9, 9, 9, 9)]);
    let many = lease(|r| r.set(option::NAME_SERVERS, &[9; 252])).unwrap();
    assert_eq!(many.name_servers.len(), NAME_SERVERS_MAX);
}

#[test]
fn times_are_in_order_and_a_lease_of_no_time_is_none() {
    let term = |lease_time: u32, t1: u32, t2: u32| {
        lease(|r| {
            r.set(option::LEASE_TIME, &lease_time.to_be_bytes());
            r.set(option::RENEWAL_TIME, &t1.to_be_bytes());
            r.set(option::REBINDING_TIME, &t2.to_be_bytes());
        })
        .map(|lease| lease.term.map(|term| (term.renew, term.rebind, term.end)))
    };
    assert_eq!(term(0, 1, 2), Err(Refusal::Ended));
    assert_eq!(term(u32::MAX, 1, 2), Ok(None));
    assert_eq!(term(100, 10, 20), Ok(Some((10, 20, 100))));
    for (t1, t2) in [(0, 20), (20, 10), (10, 200), (100, 100), (u32::MAX, u32::MAX)] {
        assert_eq!(term(100, t1, t2), Ok(Some((50, 88, 100))), "{t1} {t2}");
    }
    assert_eq!(term(1, 0, 0), Ok(Some((1, 1, 1))));
    assert_eq!(term(u32::MAX - 1, 0, 0).unwrap().unwrap().2, u32::MAX - 1);
}

#[test]
fn what_is_no_answer_to_the_question_is_none() {
    let parses = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = Reply::offer().packet();
        change(&mut packet);
        Answer::parse(&packet, &client(), TRANSACTION).is_some()
    };
    assert!(parses(&|_| ()));
    const DHCP: usize = 28;
    // Another version, a fragment, a header that is longer than the packet, another length than there is.
    assert!(!parses(&|p| p[0] = 0x65));
    assert!(!parses(&|p| p[0] = 0x4f));
    assert!(!parses(&|p| p[6] = 0x20));
    assert!(!parses(&|p| p[3] = 0xff));
    assert!(!parses(&|p| p[9] = 6));
    assert!(!parses(&|p| p[10] ^= 1));
    // Ports, and the length of the datagram.
    assert!(!parses(&|p| p[21] = 66));
    assert!(!parses(&|p| p[23] = 69));
    assert!(!parses(&|p| p[24] = 0xff));
    assert!(!parses(&|p| (p[24], p[25]) = (0, 0)));
    // A question, another transaction, another machine, no DHCP.
    assert!(!parses(&|p| p[DHCP] = 1));
    assert!(!parses(&|p| p[DHCP + 2] = 16));
    assert!(!parses(&|p| p[DHCP + 4] ^= 1));
    assert!(!parses(&|p| p[DHCP + 28] ^= 1));
    assert!(!parses(&|p| p[DHCP + 236] ^= 1));
    // The type of the message: an unknown one, with a length that lies, none.
    assert!(!parses(&|p| p[DHCP + 242] = 9));
    assert!(!parses(&|p| p[DHCP + 241] = 200));
    assert!(!parses(&|p| p[DHCP + 240] = 0xff));
}

#[test]
fn no_packet_however_it_is_cut_or_flipped_is_more_than_refused() {
    let whole = Reply::offer().packet();
    for length in 0..whole.len() {
        assert!(Answer::parse(&whole[..length], &client(), TRANSACTION).is_none(), "{length}");
    }
    for byte in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut packet = whole.clone();
            packet[byte] = value;
            if let Some(answer) = Answer::parse(&packet, &client(), TRANSACTION) {
                // An error or a lease, and no panic.
                let _ = Lease::of(&answer);
            }
        }
    }
}

#[test]
fn questions_are_what_the_protocol_says() {
    let of = |question: Question| question.message(&client(), TRANSACTION).unwrap();
    let has = |message: &[u8], option: &[u8]| message[240..].windows(option.len()).any(|w| w == option);
    let discover = of(Question::Discover);
    assert_eq!(&discover[..4], [1, 1, 6, 0]);
    assert_eq!(discover[4..8], TRANSACTION.to_be_bytes());
    assert_eq!(&discover[28..34], CLIENT);
    assert_eq!(&discover[236..243], [0x63, 0x82, 0x53, 0x63, 53, 1, 1]);
    assert!(has(&discover, b"\x0c\x02vm") && has(&discover, &[61, 7, 1]));
    let (address, server) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1));
    let request = of(Question::Request { address, server });
    assert!(has(&request, &[50, 4, 10, 0, 0, 9]) && has(&request, &[54, 4, 10, 0, 0, 1]));
    assert_eq!(request[12..16], [0; 4]);
    let renew = of(Question::Renew { address });
    assert_eq!(renew[12..16], address.octets());
    assert!(!has(&renew, &[50, 4]) && !has(&renew, &[54, 4]));
    let longest = Client { hostname: "h".repeat(63), ..client() };
    assert!(Question::Request { address, server }.message(&longest, 1).is_some());
}
