//! One direction of a session's bytes as a pure decision: from a phase and a view to an operation.
//!
//! A flow takes bytes from its source and gives them to its sink. It never takes more than it can give or hold: while
//! bytes are held and there is no room, the source is not read, and that is all there is to backpressure. When the
//! source ends, the flow passes that on once, behind the last byte.

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The source may have more.
    Open,
    /// The source has ended, and the sink has not been told.
    Ending,
    /// The sink has been told, or is no more.
    Finished,
}

/// What a flow can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Bytes wait to be given to the sink.
    pub held: bool,
    /// There is room to take bytes from the source.
    pub room: bool,
    /// The source is believed to have bytes, or its end, or an error.
    pub source_ready: bool,
    /// The sink is believed to take bytes.
    pub sink_ready: bool,
}

/// What a flow does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Give held bytes to the sink.
    Flush,
    /// Take bytes from the source.
    Fill,
    /// Pass the end on.
    Finish,
    /// Nothing, until one of these becomes ready.
    Rest {
        /// The source.
        on_source: bool,
        /// The sink.
        on_sink: bool,
    },
    /// Nothing, ever.
    Done,
}

/// Decides. A flush comes before a fill: what is older leaves first.
pub fn next(phase: Phase, view: View) -> Op {
    match phase {
        Phase::Open if view.held && view.sink_ready => Op::Flush,
        Phase::Open if view.room && view.source_ready => Op::Fill,
        Phase::Open => Op::Rest { on_source: view.room, on_sink: view.held },
        Phase::Ending if !view.held => Op::Finish,
        Phase::Ending if view.sink_ready => Op::Flush,
        Phase::Ending => Op::Rest { on_source: false, on_sink: true },
        Phase::Finished => Op::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row: three phases, sixteen views less those of an engine that neither holds bytes nor has room.
    fn rows() -> impl Iterator<Item = (Phase, View)> {
        let bits = (0..16u8).map(|bits| View {
            held: bits & 1 != 0,
            room: bits & 2 != 0,
            source_ready: bits & 4 != 0,
            sink_ready: bits & 8 != 0,
        });
        let views: Vec<View> = bits.filter(|view| view.held || view.room).collect();
        [Phase::Open, Phase::Ending, Phase::Finished]
            .into_iter()
            .flat_map(move |phase| views.clone().into_iter().map(move |view| (phase, view)))
    }

    #[test]
    fn a_rest_names_an_edge_that_is_not_already_there() {
        assert_eq!(rows().count(), 36);
        for (phase, view) in rows() {
            if let Op::Rest { on_source, on_sink } = next(phase, view) {
                assert!(on_source || on_sink, "{phase:?} {view:?}");
                assert!(!(on_source && view.source_ready), "{phase:?} {view:?}");
                assert!(!(on_sink && view.sink_ready), "{phase:?} {view:?}");
            }
        }
    }

    #[test]
    fn an_operation_is_only_chosen_where_it_can_be_done() {
        for (phase, view) in rows() {
            match next(phase, view) {
                Op::Flush => assert!(view.held && view.sink_ready && phase != Phase::Finished),
                Op::Fill => assert!(view.room && view.source_ready && phase == Phase::Open),
                Op::Finish => assert!(!view.held && phase == Phase::Ending),
                Op::Rest { .. } => assert_ne!(phase, Phase::Finished),
                Op::Done => assert_eq!(phase, Phase::Finished),
            }
        }
    }

    #[test]
    fn what_is_older_leaves_first() {
        let view = View { held: true, room: true, source_ready: true, sink_ready: true };
        assert_eq!(next(Phase::Open, view), Op::Flush);
        assert_eq!(next(Phase::Ending, view), Op::Flush);
        assert_eq!(next(Phase::Open, View { sink_ready: false, ..view }), Op::Fill);
    }
}
