//! Numbers of `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h` and `linux/netfilter.h`.

pub(super) const SUBSYSTEM: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENTS: u16 = 12;

pub(super) const FAMILY_UNSPECIFIED: u8 = 0;
pub(super) const FAMILY_INET: u8 = 1;
pub(super) const FAMILY_IPV4: u8 = 2;
pub(super) const FAMILY_IPV6: u8 = 10;
pub(super) const HOOK_LOCAL_IN: u32 = 1;
pub(super) const HOOK_LOCAL_OUT: u32 = 3;
pub(super) const HOOK_POST_ROUTING: u32 = 4;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const CHAIN_HOOK_NUMBER: u16 = 1;
pub(super) const CHAIN_HOOK_PRIORITY: u16 = 2;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_ID: u16 = 10;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS_LIST: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;

pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const META_REGISTER: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_IN_NAME: u32 = 6;
pub(super) const META_OUT_NAME: u32 = 7;
pub(super) const META_FAMILY: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
pub(super) const CMP_REGISTER: u16 = 1;
pub(super) const CMP_OPERATION: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;
pub(super) const CMP_EQUAL: u32 = 0;
pub(super) const BITWISE_SOURCE: u16 = 1;
pub(super) const BITWISE_REGISTER: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;
pub(super) const EXTHDR_TYPE: u16 = 2;
pub(super) const EXTHDR_OFFSET: u16 = 3;
pub(super) const EXTHDR_LEN: u16 = 4;
pub(super) const EXTHDR_OPERATION: u16 = 6;
pub(super) const EXTHDR_SOURCE: u16 = 7;
pub(super) const EXTHDR_TCP_OPTION: u32 = 1;
pub(super) const PAYLOAD_REGISTER: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LEN: u16 = 4;
pub(super) const BASE_NETWORK: u32 = 1;
pub(super) const BASE_TRANSPORT: u32 = 2;
pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_REGISTER: u16 = 2;
pub(super) const IMMEDIATE_REGISTER: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;
pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
pub(super) const NAT_ADDRESS_REGISTER: u16 = 3;
pub(super) const NAT_DESTINATION: u32 = 1;

/// The first of the 4-byte registers; a value takes as many as it fills, and the parts of a key follow each other.
pub(super) const REGISTER: u32 = 8;
