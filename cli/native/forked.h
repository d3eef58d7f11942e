/* SPDX-License-Identifier: MIT */
/* Copy-on-write by fork: the child keeps the copy, and scans it when it is told to. */
#ifndef EXMAPCTL_FORKED_H
#define EXMAPCTL_FORKED_H

#include <stdint.h>

#include "snapshot.h"

struct forked;

int forked_open(const uint8_t *base, uint32_t pages, struct forked **out);
/* NULL is nothing. */
void forked_close(struct forked *forked);
int forked_freeze(struct forked *forked);
int forked_scan(struct forked *forked, struct snapshot_scan *scan);
/* Ends the child, and waits for it. */
int forked_drop(struct forked *forked);

#endif /* EXMAPCTL_FORKED_H */
