//! A compiled set that several hold.

use std::ops::Deref;
use std::sync::Arc;

use super::compile::Compiled;

/// A compiled set that several hold. The last of them may be a request, and to free
/// 100,000 policies takes a while: that is done on a thread where nothing waits for it.
#[derive(Debug)]
pub struct SharedSet(Option<Compiled>);

impl SharedSet {
    /// To be shared.
    pub fn new(compiled: Compiled) -> Arc<Self> {
        Arc::new(Self(Some(compiled)))
    }
}

impl Deref for SharedSet {
    type Target = Compiled;

    fn deref(&self) -> &Compiled {
        match &self.0 {
            Some(compiled) => compiled,
            None => unreachable!("only drop takes it"),
        }
    }
}

impl Drop for SharedSet {
    fn drop(&mut self) {
        let compiled = self.0.take();
        // Without a runtime no request waits.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(compiled));
        }
    }
}
