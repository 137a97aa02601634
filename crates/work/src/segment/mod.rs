//! A video cut into segments that can be worked apart from each other, and what is kept of each.
//!
//! The promise is that the segments one after the other are the whole video, frame for frame and byte for byte, whoever
//! worked them and however often they were begun. So a cut is made only where a fresh decoder shows what one shows that
//! came from the beginning; where that turns out not to be so, the segment is decoded again from the beginning on.

mod outline;
pub(crate) use outline::Key;
pub use outline::{Outline, Packet};

mod plan;
pub use plan::{Lengths, Plan, Segment};

mod keys;
pub(crate) use keys::Keys;

mod times;
pub(crate) use times::{Listed, Numbers, Times};

mod part;
pub(crate) use part::FORMAT as PART_FORMAT;
pub use part::{Access, Look, Part, PartName, SegmentEnd};

mod ledger;
pub use ledger::{Kept, Ledger, Next};
