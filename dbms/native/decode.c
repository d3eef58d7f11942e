// SPDX-License-Identifier: MIT
/*
 * Rows of a leaf into vectors, one column after the other, so that what depends on a
 * column's type is decided once for many rows.  It takes the rows of the newest version
 * whose keys have one width; row_decode takes any.
 */
#include <errno.h>
#include <string.h>

#include "key.h"
#include "row.h"

#define RUN	64u
#define SHORT	32u
#define CHUNK	64u

/**
 * struct run - rows that can be decoded together
 * @shape: of all of them
 * @end: of the page that they lie in
 * @prefix: which their keys begin with
 * @prefix_length: bytes
 * @key_width: of the rest of each key
 * @n: rows
 * @keys: these rests; the values follow them
 */
struct run {
	const struct row_shape *shape;
	const uint8_t *end;
	const uint8_t *prefix;
	unsigned int prefix_length;
	unsigned int key_width;
	unsigned int n;
	const uint8_t *keys[RUN];
};

/* As row_has_sound_texts, without a loop for one text. */
static inline bool has_sound_texts(const struct row_shape *shape, unsigned int nr_text,
				   unsigned int ends, const struct btree_row *row)
{
	uint16_t end;

	if (nr_text != 1)
		return row_has_sound_texts(shape, row);
	if (row->value_length < ends + sizeof(end))
		return false;
	memcpy(&end, row->value + ends, sizeof(end));
	return end <= row->value_length - ends - sizeof(end);
}

static void gather(struct run *run, const struct exdb_layout *layout, const struct node *leaf,
		   unsigned int from, unsigned int n)
{
	const struct row_shape *shape = &layout->shapes[layout->version];
	const unsigned int prefix_length = leaf->prefix_length, version = layout->version;
	const unsigned int key_width = layout->key_width - prefix_length;
	const unsigned int nr_text = shape->nr_text, ends = shape->ends;
	const unsigned int most = n < RUN ? n : RUN;
	unsigned int i;

	for (i = 0; i < most; i++) {
		const struct node_slot *slot = &leaf->slots[from + i];
		const struct btree_row row = {
			.value = node_value(leaf, from + i),
			.value_length = slot->value_length,
		};

		if (slot->nr_large || slot->key_length != key_width || !row.value_length ||
		    row.value[0] != version || !has_sound_texts(shape, nr_text, ends, &row))
			break;
		run->keys[i] = node_rest(leaf, from + i);
	}
	run->shape = shape;
	run->end = (const uint8_t *)leaf + PAGE_SIZE;
	run->prefix = node_prefix(leaf);
	run->prefix_length = prefix_length;
	run->key_width = key_width;
	run->n = i;
}

/* In whole chunks, if what is behind the text may be read, and at @to overwritten by the next one. */
static inline void copy_text(uint8_t *to, uint64_t room, const uint8_t *from, uint64_t readable,
			     unsigned int length)
{
	const uint8_t *const end = from + length;

	if (length + CHUNK > room || length + CHUNK > readable) {
		memcpy(to, from, length);
		return;
	}
	if (length <= SHORT) {
		memcpy(to, from, SHORT);
		return;
	}
	for (; from < end; from += CHUNK, to += CHUNK)
		memcpy(to, from, CHUNK);
}

/* The rows for whose texts there is room. */
static unsigned int copy_texts(const struct exdb_vector *v, uint64_t at, const struct run *run,
			       unsigned int text)
{
	const struct row_shape shape = {
		.nr_text = run->shape->nr_text,
		.ends = run->shape->ends,
	};
	const uint64_t capacity = v->capacity;
	const unsigned int n = run->n, key_width = run->key_width;
	uint8_t *const values = v->values;
	int32_t *ends = v->offsets + at;
	uint64_t to = *ends++;
	unsigned int i;

	for (i = 0; i < n; i++) {
		unsigned int length;
		const uint8_t *from = row_text(&shape, run->keys[i] + key_width, text, &length);

		if (to + length > capacity)
			break;
		copy_text(values + to, capacity - to, from, run->end - from, length);
		to += length;
		ends[i] = to;
	}
	return i;
}

static void copy_nulls(uint8_t *valid, const struct run *run, unsigned int bit)
{
	const unsigned int place = run->key_width + bit / 8, shift = bit % 8;
	unsigned int i;

	for (i = 0; i < run->n; i++)
		valid[i] = !(run->keys[i][place] >> shift & 1);
}

/* @place: counted from the beginning of the key's rest */
static void copy_fixed(uint8_t *to, const struct run *run, unsigned int place, unsigned int width)
{
	unsigned int i;

	switch (width) {
	case 8:
		for (i = 0; i < run->n; i++)
			memcpy(to + 8 * i, run->keys[i] + place, 8);
		break;
	case 4:
		for (i = 0; i < run->n; i++)
			memcpy(to + 4 * i, run->keys[i] + place, 4);
		break;
	default:
		for (i = 0; i < run->n; i++)
			to[i] = run->keys[i][place];
	}
}

static void copy_keys(uint8_t *to, const struct run *run, unsigned int place, unsigned int type)
{
	unsigned int i;

	switch (type) {
	case EXDB_BOOL:
		copy_fixed(to, run, place, 1);
		break;
	case EXDB_INT32:
	case EXDB_DATE:
		for (i = 0; i < run->n; i++)
			key_get32(run->keys[i] + place, to + 4 * i);
		break;
	case EXDB_FLOAT64:
		for (i = 0; i < run->n; i++)
			key_get64(run->keys[i] + place, to + 8 * i, true);
		break;
	default:
		for (i = 0; i < run->n; i++)
			key_get64(run->keys[i] + place, to + 8 * i, false);
	}
}

/*
 * A part of the keys that begins in the prefix, made whole in @parts; @place: counted from the
 * key's beginning.  What lies just before a rest is still in the page.
 */
static void join(const struct run *run, unsigned int place, unsigned int width, struct run *joined,
		 uint64_t *parts)
{
	const unsigned int there = run->prefix_length - place;
	const unsigned int n = there < width ? there : width;
	uint64_t first = 0;
	unsigned int i;

	memcpy(&first, run->prefix + place, n);
	for (i = 0; i < run->n; i++) {
		uint64_t v = 0;

		if (n < width && width == 8)
			memcpy(&v, run->keys[i] - n, 8);
		else if (n < width)
			memcpy(&v, run->keys[i] - n, 4);
		parts[i] = n < 8 ? (v & UINT64_MAX << 8 * n) | first : first;
		joined->keys[i] = (const uint8_t *)&parts[i];
	}
	joined->n = run->n;
}

static void decode_keys(const struct exdb_layout *layout, const struct run *run,
			struct exdb_vector *columns, uint64_t at)
{
	unsigned int k, place = 0, width;
	uint64_t parts[RUN];
	struct run joined;

	for (k = 0; k < layout->nr_key; k++, place += width) {
		const struct row_column *column = &layout->columns[layout->key[k]];
		const struct exdb_vector *v = &columns[column->vector];

		width = row_width(column->type);
		if (!v->values)
			continue;
		if (v->valid)
			memset(v->valid + at, 1, run->n);
		if (place >= run->prefix_length) {
			copy_keys((uint8_t *)v->values + at * width, run,
				  place - run->prefix_length, column->type);
		} else {
			join(run, place, width, &joined, parts);
			copy_keys((uint8_t *)v->values + at * width, &joined, 0, column->type);
		}
	}
}

/* First what may end the run, so that the other columns get no more rows than fit. */
static void decode_texts(const struct exdb_layout *layout, struct run *run,
			 struct exdb_vector *columns, uint64_t at)
{
	unsigned int c;

	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_place *place = &run->shape->places[c];
		const struct row_column *column = &layout->columns[c];

		if (place->bit == NO_PLACE || row_width(column->type) ||
		    !columns[column->vector].values)
			continue;
		run->n = copy_texts(&columns[column->vector], at, run, place->place);
	}
}

static void decode_values(const struct exdb_layout *layout, const struct run *run,
			  struct exdb_vector *columns, uint64_t at)
{
	unsigned int c;

	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_place *place = &run->shape->places[c];
		const unsigned int width = row_width(layout->columns[c].type);
		struct exdb_vector *v;

		if (place->bit == NO_PLACE)
			continue;
		v = &columns[layout->columns[c].vector];
		if (!v->values)
			continue;
		if (v->valid)
			copy_nulls(v->valid + at, run, place->bit);
		if (width)
			copy_fixed((uint8_t *)v->values + at * width, run,
				   run->key_width + place->place, width);
	}
}

/* A prefix that is longer than keys are is none of this table. */
static bool is_joinable(const struct exdb_layout *layout, const struct node *leaf)
{
	return layout->key_width && layout->key_width >= leaf->prefix_length;
}

long row_decode_run(struct exdb_worker *w, const struct exdb_layout *layout,
		    const struct node *leaf, unsigned int from, unsigned int n,
		    struct exdb_vector *columns, uint64_t at)
{
	struct run run;
	int ret;

	gather(&run, layout, leaf, from, is_joinable(layout, leaf) ? n : 0);
	if (!run.n) {
		struct exdb_key room;
		const struct btree_row row = btree_row_at(leaf, from, &room);

		ret = row_decode(w, layout, &row, columns, at);
		return ret < 0 ? ret : !ret;
	}
	decode_texts(layout, &run, columns, at);
	decode_keys(layout, &run, columns, at);
	decode_values(layout, &run, columns, at);
	return run.n;
}
