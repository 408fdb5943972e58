//! The measure of tensor cores' products.

use centerpoint::internals::cuda::peak::peak;

use crate::emulation;

#[test]
fn products_take_time() {
    let device = emulation::device(1);
    for half in [false, true] {
        let rate = peak(&device, half, 2).unwrap();
        assert!(rate > 0.0, "{rate}");
    }
}
