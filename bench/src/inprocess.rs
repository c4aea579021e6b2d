//! Policy evaluation alone, in this process: the only file here that knows the server's
//! library.

use zta_proto::v1;
use zta_server::{
    model::{
        AccessRequest, DenyReason, EntityUid, Principal, PrincipalKind, SourceFile, Standing,
        arguments::Arguments,
    },
    policy::{Compiled, EntityMap, Facts, Pip, PolicySource, builtin_source, compile},
};

use crate::{Result, policies, requests::Expected};

/// A request, parsed as the server's door parses it.
pub type Question = AccessRequest;

/// A compiled policy set, and the generator's agent.
#[derive(Debug)]
pub struct Engine {
    compiled: Compiled,
    principal: Principal,
    facts: Facts,
    stored: EntityMap,
}

impl Engine {
    /// Compiles a set together with the policies that every server starts with.
    ///
    /// # Errors
    /// It does not compile; the message holds the first problems.
    pub fn compile(source: &v1::PolicySource) -> Result<Self> {
        let mut all = builtin_source();
        let file = |file: &v1::SourceFile| SourceFile::new(&*file.name, &*file.text);
        let PolicySource {
            policies: texts,
            schemas,
            ..
        } = &mut all;
        texts.extend(source.policies.iter().map(file));
        schemas.extend(source.schemas.iter().map(file));
        let compiled = compile(&all, None).map_err(|problems| {
            let first = problems.into_iter().take(3);
            let lines: Vec<String> = first.map(|p| format!("{p:?}")).collect();
            lines.join("\n")
        })?;
        Ok(Self {
            compiled,
            principal: principal(),
            facts: facts(),
            stored: EntityMap::default(),
        })
    }

    /// The request as the engine takes it.
    ///
    /// # Errors
    /// Not one that the door would let in.
    pub fn question(request: &v1::AuthorizeRequest) -> Result<Question> {
        let uid = |uid: &Option<v1::EntityRef>| {
            let uid = uid.as_ref().ok_or("a request without action or resource")?;
            Ok::<_, crate::Error>(EntityUid::new(&uid.r#type, &uid.id))
        };
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let mut question = AccessRequest::new(uid(&request.action)?, uid(&request.resource)?);
        question.arguments = Some(Arguments::parse(&request.arguments_json));
        question.pep_context = Arguments::parse(&request.context_json);
        question.session_id = text(&request.session_id);
        question.task_id = text(&request.task_id);
        question.user = text(&request.user);
        Ok(question)
    }

    /// What the policies say.
    ///
    /// # Errors
    /// The request does not fit the schema.
    pub fn decide(&self, question: &Question) -> Result<Expected> {
        let verdict = self.compiled.evaluate(
            &self.principal,
            question,
            &self.facts,
            &Pip {
                stored: &self.stored,
                parties: &(),
            },
        )?;
        Ok(match verdict.deny {
            None => Expected::Allow,
            Some(DenyReason::NotPermitted) => Expected::Deny(v1::DenyReason::NotPermitted),
            Some(DenyReason::Forbidden) => Expected::Deny(v1::DenyReason::Forbidden),
            Some(other) => return Err(format!("denied for {other:?}: {}", verdict.message).into()),
        })
    }
}

fn principal() -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        id: format!("spiffe://zta.local/agent/{}", policies::AGENT),
        name: policies::AGENT.to_owned(),
        roles: policies::ROLES.map(str::to_owned).to_vec(),
        owner: String::new(),
        zone: String::new(),
        attributes: std::sync::Arc::default(),
        state: Standing::Active,
        instance: None,
    }
}

fn facts() -> Facts {
    Facts {
        delegation: None,
        now: time::OffsetDateTime::UNIX_EPOCH,
        source: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        authentication_method: "mtls",
        authentication_age_seconds: 60,
        resource: None,
    }
}
