//! Work on many independent items, spread over the cores.

use std::thread;

/// Cedar's parser, and what walks its trees, recurse; limits bound the depth, and this
/// holds what they allow.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Maps each item, in order. On threads of its own, with a stack for deep policies: one for
/// fewer than `items_min` items, for which a second costs more than it brings.
pub(crate) fn parallel<T: Sync, R: Send>(
    items: &[T],
    items_min: usize,
    map: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if items.is_empty() {
        return Vec::new();
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = if items.len() < items_min { 1 } else { cores };
    let map = &map;
    thread::scope(|scope| {
        let pieces = items.chunks(items.len().div_ceil(threads));
        let spawned: Vec<_> = pieces
            .map(|piece| {
                let work = move || piece.iter().map(map).collect::<Vec<R>>();
                let builder = thread::Builder::new().stack_size(STACK_BYTES);
                // Without another thread it is this one's work.
                builder.spawn_scoped(scope, work).map_err(|_| piece)
            })
            .collect();
        let join = |spawned: Result<thread::ScopedJoinHandle<'_, Vec<R>>, &[T]>| match spawned {
            Ok(handle) => handle
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(piece) => piece.iter().map(map).collect(),
        };
        spawned.into_iter().flat_map(join).collect()
    })
}
