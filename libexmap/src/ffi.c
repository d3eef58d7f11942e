// SPDX-License-Identifier: MIT
/* libexmap: every inline of the header as a function, for bindings. */
#include "exmap_user.h"

bool exmap_ffi_is_mapped(const struct exmap *ex, uint64_t page);
void *exmap_ffi_page(const struct exmap *ex, uint64_t page);
const void *exmap_ffi_snapshot_page(const struct exmap_snapshot *snap, uint64_t page);

bool exmap_ffi_is_mapped(const struct exmap *ex, uint64_t page)
{
	return exmap_is_mapped(ex, page);
}

void *exmap_ffi_page(const struct exmap *ex, uint64_t page)
{
	return exmap_page(ex, page);
}

const void *exmap_ffi_snapshot_page(const struct exmap_snapshot *snap, uint64_t page)
{
	return exmap_snapshot_page(snap, page);
}
