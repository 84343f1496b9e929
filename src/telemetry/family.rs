//! What does a row of the table in `families.rs` mean? It makes a field, its registration, and the
//! [`Row`] that docs/metrics.md is tested against; where it says `from`, also the field of what is
//! read at a scrape.

use std::collections::HashMap;

use prometheus::core::{
    Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge, GenericGaugeVec, MetricVec,
    MetricVecBuilder,
};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, Opts, Registry};

use super::labels::Labels;

/// What a row says of its family.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name without the prefix that all have.
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// The bounds of a histogram; only that has them.
    pub buckets: &'static [&'static [f64]],
}

impl Row {
    fn opts(&self) -> Opts {
        Opts::new(format!("linksfield_gateway_{}", self.name), self.help)
    }
}

/// A type that a row can name.
pub(super) trait Family: Collector + Clone + 'static {
    fn new(row: &Row) -> prometheus::Result<Self>;

    fn register(row: &Row, registry: &Registry) -> Self {
        let family = Self::new(row).expect("names and labels are constants of the table");
        registry
            .register(Box::new(family.clone()))
            .expect("each name has one row");
        family
    }

    /// Ends the series of routes, tenants and callers that are not among these.
    fn end_others(&self, _labels: &Labels) {} // without labels, its one series never ends
}

impl<N: Atomic + 'static> Family for GenericCounter<N> {
    fn new(row: &Row) -> prometheus::Result<Self> {
        Self::with_opts(row.opts())
    }
}

impl<N: Atomic + 'static> Family for GenericCounterVec<N> {
    fn new(row: &Row) -> prometheus::Result<Self> {
        Self::new(row.opts(), row.labels)
    }

    fn end_others(&self, labels: &Labels) {
        end_others(self, labels);
    }
}

impl<N: Atomic + 'static> Family for GenericGauge<N> {
    fn new(row: &Row) -> prometheus::Result<Self> {
        Self::with_opts(row.opts())
    }
}

impl<N: Atomic + 'static> Family for GenericGaugeVec<N> {
    fn new(row: &Row) -> prometheus::Result<Self> {
        Self::new(row.opts(), row.labels)
    }

    fn end_others(&self, labels: &Labels) {
        end_others(self, labels);
    }
}

impl Family for HistogramVec {
    fn new(row: &Row) -> prometheus::Result<Self> {
        let opts = HistogramOpts::from(row.opts()).buckets(row.buckets.concat());
        Self::new(opts, row.labels)
    }

    fn end_others(&self, labels: &Labels) {
        end_others(self, labels);
    }
}

fn end_others<B: MetricVecBuilder>(family: &MetricVec<B>, configured: &Labels) {
    for series in family.collect().iter().flat_map(MetricFamily::get_metric) {
        let labels = series.get_label().iter();
        let labels: HashMap<_, _> = labels.map(|it| (it.name(), it.value())).collect();
        if !labels
            .iter()
            .all(|(name, value)| configured.has(name, value))
        {
            let _ = family.remove(&labels); // it may be gone already
        }
    }
}

/// Reads the table: groups of families that belong to the same part of the gateway.
///
/// ```text
/// /// What the group is about.
/// group: GroupFamilies, read as GroupLevels = { // no `read as` where no row has `from`
///     /// The help text: one line, however many there are here.
///     field: IntGaugeVec from Counts, "name" by [label, label];
///     /// A histogram has buckets.
///     field: HistogramVec, "name" by [label] in BUCKETS;
/// }
/// ```
macro_rules! families {
    ($(
        $(#[$about:meta])+
        $group:ident: $Families:ident $(, read as $Levels:ident)? = $rows:tt
    )+) => {
        /// All families of the process. Cloning is cheap: they are handles.
        #[derive(Debug, Clone)]
        pub(super) struct Families {
            pub registry: Registry,
            $($(#[$about])+ pub $group: $Families,)+
        }

        impl Families {
            #[cfg(test)]
            pub const ROWS: &[&[Row]] = &[$($Families::ROWS),+];

            pub fn register() -> Self {
                let registry = Registry::new();
                $(let $group = $Families::register(&registry);)+
                Self { registry, $($group),+ }
            }

            /// Ends the series of routes, tenants and callers that are not among these.
            pub fn end_others(&self, labels: &Labels) {
                $(self.$group.end_others(labels);)+
            }
        }

        $(
            families! { @families $(#[$about])+ $Families $rows }
            $(families! { @levels $Families $Levels $rows })?
        )+
    };

    (@families $(#[$about:meta])+ $Families:ident {$(
        $(#[doc = $help:literal])+
        $field:ident: $Type:ident $(from $Value:ty)?,
        $name:literal $(by [$($label:ident),+])? $(in $buckets:ident)?;
    )+}) => {
        $(#[$about])+
        #[derive(Debug, Clone)]
        #[allow(clippy::doc_markdown, reason = "a help text is plain text")]
        pub(super) struct $Families {
            $($(#[doc = $help])+ pub $field: $Type,)+
        }

        impl $Families {
            const ROWS: &[Row] = &[$(Row {
                name: $name,
                help: concat!($($help),+).trim_ascii_start(), // each line begins with a space
                labels: &[$($(stringify!($label)),+)?],
                buckets: &[$($buckets)?],
            }),+];

            fn register(registry: &Registry) -> Self {
                let mut rows = Self::ROWS.iter();
                let mut row = || rows.next().expect("a field has a row");
                Self { $($field: Family::register(row(), registry)),+ } // in the order of the rows
            }

            fn end_others(&self, labels: &Labels) {
                $(self.$field.end_others(labels);)+
            }
        }
    };

    (@levels $Families:ident $Levels:ident {$(
        $(#[doc = $help:literal])+
        $field:ident: $Type:ident $(from $Value:ty)?,
        $name:literal $(by [$($label:ident),+])? $(in $buckets:ident)?;
    )+}) => {
        #[doc = concat!("What `", stringify!($Families), "` show at a scrape.")]
        #[derive(Debug, Clone, Default)]
        pub struct $Levels {
            $($(
                #[doc = concat!("The value of `", $name, "`.")]
                pub $field: $Value,
            )?)+
        }

        impl $Families {
            pub fn show(&self, levels: &$Levels) {
                $($(<$Value as Level<$Type>>::show(&levels.$field, &self.$field);)?)+
            }
        }
    };
}
pub(super) use families;
