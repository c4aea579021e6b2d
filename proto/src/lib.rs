//! The wire contract of ZTA: protobuf package `zta.v1`, generated from
//! `proto/zta/v1/*.proto` at build time. The `.proto` files are the
//! documentation of every message and RPC.

/// Package `zta.v1`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("zta.v1");

    /// The encoded `FileDescriptorSet` of the package, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zta.v1.bin"));
}
