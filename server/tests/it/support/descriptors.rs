//! Every RPC of the protos with every text that its request can hold, from the descriptors:
//! a new RPC or field is tested before anybody thinks of it.

use std::collections::HashMap;

use http::uri::PathAndQuery;
use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use zta_client::v1;

/// How deep messages in messages are filled; some hold themselves.
const DEPTH_MAX: usize = 5;

/// One RPC.
pub(crate) struct Rpc {
    /// As in HTTP, `/zta.v1.PolicyService/Apply`.
    pub(crate) path: String,
    /// `PolicyService.Apply`.
    pub(crate) name: String,
    streams: bool,
    /// The texts of its request.
    pub(crate) texts: Vec<Text>,
}

/// A string or bytes that a request can hold.
pub(crate) struct Text {
    /// The message and field that it is, `AuthorizeRequest.arguments_json`.
    pub(crate) field: String,
    /// The numbers of the fields from the request down to it.
    numbers: Vec<u32>,
}

impl Text {
    /// A request that holds just this. After another one's bytes it takes the place of what
    /// is there, or joins a list.
    pub(crate) fn holding(&self, value: &[u8]) -> Vec<u8> {
        let mut inner = value.to_vec();
        for number in self.numbers.iter().rev() {
            let mut outer = Vec::new();
            prost::encoding::encode_key(
                *number,
                prost::encoding::WireType::LengthDelimited,
                &mut outer,
            );
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend(inner);
            inner = outer;
        }
        inner
    }
}

/// Every RPC of ours.
pub(crate) fn rpcs() -> Vec<Rpc> {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut messages = HashMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(&mut messages, &format!(".{}", file.package()), message);
        }
    }
    let mut rpcs = Vec::new();
    let ours = set.file.iter().filter(|file| file.package() == "zta.v1");
    for service in ours.flat_map(|file| &file.service) {
        for method in &service.method {
            assert!(
                !method.client_streaming(),
                "{}: write how it is called",
                method.name()
            );
            let mut texts = Vec::new();
            walk(&messages, method.input_type(), &[], &mut texts);
            rpcs.push(Rpc {
                path: format!("/zta.v1.{}/{}", service.name(), method.name()),
                name: format!("{}.{}", service.name(), method.name()),
                streams: method.server_streaming(),
                texts,
            });
        }
    }
    assert!(rpcs.len() > 50, "{}", rpcs.len());
    rpcs
}

fn collect<'a>(
    messages: &mut HashMap<String, &'a DescriptorProto>,
    scope: &str,
    message: &'a DescriptorProto,
) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(messages, &name, nested);
    }
    messages.insert(name, message);
}

fn walk(
    messages: &HashMap<String, &DescriptorProto>,
    message: &str,
    above: &[u32],
    texts: &mut Vec<Text>,
) {
    let found = messages.get(message);
    let found = found.unwrap_or_else(|| panic!("{message} is not among the descriptors"));
    if above.len() == DEPTH_MAX {
        return;
    }
    for field in &found.field {
        let number = u32::try_from(field.number()).expect("a number");
        let numbers = [above, &[number]].concat();
        match field.r#type() {
            Type::String | Type::Bytes => texts.push(Text {
                field: format!("{}.{}", found.name(), field.name()),
                numbers,
            }),
            Type::Message => walk(messages, field.type_name(), &numbers, texts),
            _ => {}
        }
    }
}

/// Calls an RPC with a request as it stands on the wire. Of a stream only the beginning.
pub(crate) async fn call(channel: &Channel, rpc: &Rpc, request: Vec<u8>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let path = PathAndQuery::try_from(rpc.path.as_str()).expect("a path");
    let request = tonic::Request::new(request);
    match rpc.streams {
        true => client.server_streaming(request, path, Raw).await.map(drop),
        false => client.unary(request, path, Raw).await.map(drop),
    }
}

/// Messages as they stand on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
