//! Packet headers of virtio-vsock, as section 5.10 of the virtio specification lays them out: little-endian, packed.

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 44;

/// Most payload of one packet: what Linux sends at most. A longer one is refused.
pub(crate) const PAYLOAD_MAX: usize = 64 << 10;

/// Context id of the host.
pub(crate) const HOST_CID: u64 = 2;

/// Context id of every machine's guest: each machine's ids are its own.
pub(crate) const GUEST_CID: u64 = 3;

/// The one type of socket that is served.
pub(crate) const TYPE_STREAM: u16 = 1;

/// In the flags of [`Op::Shutdown`]: the sender of the packet will receive no more.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;

/// In the flags of [`Op::Shutdown`]: the sender of the packet will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;

/// Both.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A packet's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    const ALL: [(u16, Self); 7] = [
        (1, Self::Request),
        (2, Self::Response),
        (3, Self::Reset),
        (4, Self::Shutdown),
        (5, Self::Data),
        (6, Self::CreditUpdate),
        (7, Self::CreditRequest),
    ];

    /// `None`: there is no such operation.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == number).map(|(_, op)| *op)
    }

    pub(crate) fn number(self) -> u16 {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or(0, |(n, _)| *n)
    }
}

/// A header, unchecked: every field is what the sender says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            dst_port: 5000,
            len: 6,
            kind: TYPE_STREAM,
            op: Op::Data.number(),
            flags: SHUTDOWN_BOTH,
            buf_alloc: 0x1_0000,
            fwd_cnt: 0xffff_fffe,
        };
        let mut expected = vec![3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0x88, 0x13, 0, 0];
        expected.extend([6, 0, 0, 0, 1, 0, 5, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(header.encode().to_vec(), expected);
    }

    #[test]
    fn operations_have_their_numbers_and_no_others() {
        for number in 0..=u16::MAX {
            match Op::from_number(number) {
                Some(op) => assert!((1..=7).contains(&number) && op.number() == number),
                None => assert!(!(1..=7).contains(&number)),
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_that_encodes_to_them(bytes in proptest::array::uniform32(any::<u8>()), rest in proptest::array::uniform12(any::<u8>())) {
            let all: [u8; HEADER_LEN] = [&bytes[..], &rest[..]].concat().try_into().unwrap();
            prop_assert_eq!(Header::decode(&all).encode(), all);
        }
    }
}
