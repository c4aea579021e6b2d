//! `zta entity …`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Map, Value, json};
use zta_client::{Client, v1};

use super::{Failure, Options, line, table};

/// Entities of one call.
const BATCH_MAX: usize = 10_000;
/// Bytes of one call, roughly; the server takes more.
const BATCH_BYTES_MAX: usize = 6 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store entities, each in place of the one of its uid.
    ///
    /// The file holds JSON, one entity a line or a list of them, in Cedar's entity form:
    /// {"uid": {"type": "T", "id": "x"}, "attrs": {…}, "parents": [{"type": …, "id": …}], "tags": {…}}.
    Put {
        /// The file; `-` is standard input.
        file: PathBuf,
    },
    /// Show one entity.
    Get {
        /// Its type, for example `ZTA::Tool`.
        #[arg(value_name = "TYPE")]
        ty: String,
        /// Its id.
        id: String,
    },
    /// List entities in the order of type and id.
    List {
        /// Only of this type.
        #[arg(long = "type", value_name = "TYPE")]
        ty: Option<String>,
        /// How many; without it all.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Delete entities.
    Delete {
        /// Their type.
        #[arg(value_name = "TYPE")]
        ty: String,
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Put { file } => put(options, &file).await,
        Command::Get { ty, id } => get(options, ty, id).await,
        Command::List { ty, limit } => list(options, ty, limit).await,
        Command::Delete { ty, ids } => delete(options, &ty, ids).await,
    }
}

async fn put(options: &Options, file: &Path) -> Result<(), Failure> {
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin())?,
        _ => std::fs::read_to_string(file)
            .map_err(|e| Failure::CouldNotRun(format!("{}: {e}", file.display())))?,
    };
    // All of it is read before any of it is put.
    let entities = read(&text).map_err(Failure::No)?;
    let client = options.client()?;
    let (total, mut done, mut changed) = (entities.len(), 0, 0);
    let several = total > BATCH_MAX;
    for batch in batches(entities) {
        let size = batch.len();
        let request = v1::EntityServicePutRequest { entities: batch };
        let answer = client.entities().put(request).await.map_err(|status| {
            let failure: Failure = status.into();
            match failure {
                Failure::No(why) => Failure::No(format!("{why} ({done} of {total} were put)")),
                Failure::CouldNotRun(why) => {
                    Failure::CouldNotRun(format!("{why} ({done} of {total} were put)"))
                }
            }
        })?;
        changed += answer.into_inner().changed;
        done += size;
        if several {
            progress(done, total);
        }
    }
    if options.json {
        return line(json!({ "put": total, "changed": changed }));
    }
    line(format!(
        "put {total}, of which {changed} are new or changed"
    ))
}

/// Progress goes where no script reads.
fn progress(done: usize, total: usize) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{done} of {total}");
}

fn batches(entities: Vec<v1::Entity>) -> Vec<Vec<v1::Entity>> {
    let mut batches: Vec<Vec<v1::Entity>> = Vec::new();
    let mut bytes = 0;
    for entity in entities {
        let size = prost::Message::encoded_len(&entity);
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MAX && bytes + size <= BATCH_BYTES_MAX => {
                batch.push(entity);
                bytes += size;
            }
            _ => {
                batches.push(vec![entity]);
                bytes = size;
            }
        }
    }
    batches
}

/// Entities of a text: a list, or one a line.
fn read(text: &str) -> Result<Vec<v1::Entity>, String> {
    if text.trim_start().starts_with('[') {
        let items: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let numbered = items.into_iter().enumerate();
        return numbered
            .map(|(n, item)| entity(item).map_err(|why| format!("entity {}: {why}", n + 1)))
            .collect();
    }
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(n, line)| {
            serde_json::from_str(line)
                .map_err(|e| e.to_string())
                .and_then(entity)
                .map_err(|why| format!("line {}: {why}", n + 1))
        })
        .collect()
}

/// One entity in Cedar's JSON form; `type` and `id` may stand in it directly.
fn entity(value: Value) -> Result<v1::Entity, String> {
    let Value::Object(mut map) = value else {
        return Err("is no JSON object".to_owned());
    };
    let uid = match map.remove("uid") {
        Some(uid) => reference(uid)?,
        None => {
            let both = [("type", map.remove("type")), ("id", map.remove("id"))];
            let both = both
                .into_iter()
                .filter_map(|(k, v)| Some((k.to_owned(), v?)));
            reference(Value::Object(both.collect()))?
        }
    };
    let parents = match map.remove("parents").unwrap_or_default() {
        Value::Null => Vec::new(),
        Value::Array(items) => items.into_iter().map(reference).collect::<Result<_, _>>()?,
        _ => return Err("`parents` is no list".to_owned()),
    };
    let attributes = map.remove("attrs").or_else(|| map.remove("attributes"));
    let tags = map.remove("tags");
    if let Some(other) = map.keys().next() {
        return Err(format!("the field `{other}` is not known"));
    }
    Ok(v1::Entity {
        uid: Some(uid),
        parents,
        attributes_json: fields(attributes)?,
        tags_json: fields(tags)?,
    })
}

fn reference(value: Value) -> Result<v1::EntityRef, String> {
    let value = match value {
        Value::Object(mut map) => map.remove("__entity").unwrap_or(Value::Object(map)),
        other => other,
    };
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    match (text("type"), text("id")) {
        (Some(ty), Some(id)) => Ok(v1::EntityRef { r#type: ty, id }),
        _ => Err("a reference needs `type` and `id`".to_owned()),
    }
}

fn fields(value: Option<Value>) -> Result<String, String> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::Object(map)) => Ok(unescape(Value::Object(map)).to_string()),
        Some(_) => Err("`attrs` and `tags` are JSON objects".to_owned()),
    }
}

/// Cedar's escapes are needed where no schema says what a value is. Here one does.
fn unescape(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            if map.len() == 1 {
                if let Some(reference) = map.remove("__entity") {
                    return reference;
                }
                if let Some(Value::Object(mut call)) = map.remove("__extn") {
                    return call.remove("arg").unwrap_or_default();
                }
            }
            let fields = map.into_iter().map(|(key, value)| (key, unescape(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(unescape).collect()),
        other => other,
    }
}

fn entity_json(entity: &v1::Entity) -> Value {
    let uid = |uid: &v1::EntityRef| json!({ "type": uid.r#type, "id": uid.id });
    let object = |text: &str| serde_json::from_str(text).unwrap_or(json!({}));
    json!({
        "uid": entity.uid.as_ref().map(uid),
        "attrs": object(&entity.attributes_json),
        "parents": entity.parents.iter().map(uid).collect::<Vec<_>>(),
        "tags": object(&entity.tags_json),
    })
}

async fn get(options: &Options, ty: String, id: String) -> Result<(), Failure> {
    let name = format!("{ty}::{id:?}");
    let uid = v1::EntityRef { r#type: ty, id };
    let request = v1::EntityServiceGetRequest {
        uids: vec![uid],
        at_least_as_fresh: None,
    };
    let answer = options.client()?.entities().get(request).await?;
    match answer.into_inner().entities.first() {
        Some(entity) => line(entity_json(entity)),
        None => Err(Failure::No(format!("there is no entity {name}"))),
    }
}

async fn list(options: &Options, ty: Option<String>, limit: Option<usize>) -> Result<(), Failure> {
    let client = options.client()?;
    let (mut left, mut page_token) = (limit.unwrap_or(usize::MAX), String::new());
    let mut rows = Vec::new();
    while left > 0 {
        let page = page(&client, ty.clone(), left, page_token).await?;
        left -= page.entities.len().min(left);
        for entity in &page.entities {
            if options.json {
                line(entity_json(entity))?;
            } else {
                rows.push(row(entity));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if options.json {
        return Ok(());
    }
    table(&["TYPE", "ID", "IN", "ATTRIBUTES", "TAGS"], &rows)
}

async fn page(
    client: &Client,
    ty: Option<String>,
    left: usize,
    page_token: String,
) -> Result<v1::EntityServiceListResponse, Failure> {
    let request = v1::EntityServiceListRequest {
        r#type: ty.unwrap_or_default(),
        page_size: u32::try_from(left.min(1000)).unwrap_or(1000),
        page_token,
        at_least_as_fresh: None,
    };
    Ok(client.entities().list(request).await?.into_inner())
}

fn row(entity: &v1::Entity) -> Vec<String> {
    let uid = entity.uid.clone().unwrap_or_default();
    let parents: Vec<String> = entity
        .parents
        .iter()
        .map(|p| format!("{}::{:?}", p.r#type, p.id))
        .collect();
    vec![
        uid.r#type,
        uid.id,
        parents.join(", "),
        entity.attributes_json.clone(),
        entity.tags_json.clone(),
    ]
}

async fn delete(options: &Options, ty: &str, ids: Vec<String>) -> Result<(), Failure> {
    let uids: Vec<v1::EntityRef> = ids
        .into_iter()
        .map(|id| v1::EntityRef {
            r#type: ty.to_owned(),
            id,
        })
        .collect();
    let client = options.client()?;
    let mut deleted = 0;
    for batch in uids.chunks(BATCH_MAX) {
        let request = v1::EntityServiceDeleteRequest {
            uids: batch.to_vec(),
        };
        let answer = client.entities().delete(request).await?;
        deleted += answer.into_inner().deleted;
    }
    if options.json {
        return line(json!({ "deleted": deleted }));
    }
    line(format!("deleted {deleted}"))
}
