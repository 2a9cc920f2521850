//! The descriptor limit of this process: as high as it goes, and a word where that is too low.

/// Descriptors that no session has: the standard three, the poll, its waker, listeners, log files, a resolver's.
const RESERVE: u64 = 32;

/// Raises the limit as far as the system lets us, and warns where the configured clients do not fit.
pub fn make_room(max_connections: usize) {
    match adit::raise_descriptor_limit() {
        Ok(limit) => {
            let pipes = adit::PIPE_DESCRIPTORS_MAX;
            let fit = limit.saturating_sub(RESERVE + pipes) / 2;
            if fit < max_connections as u64 {
                log::warn!(
                    "max_connections = {max_connections} does not fit into {limit} descriptors, \
                     two for each and {pipes} for pipes: {fit} do"
                );
            }
        }
        Err(error) => log::warn!("the descriptor limit cannot be raised: {error}"),
    }
}
