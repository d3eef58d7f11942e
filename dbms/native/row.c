// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "extent.h"
#include "key.h"
#include "row.h"

unsigned int row_width(unsigned int type)
{
	switch (type) {
	case EXDB_BOOL:
		return 1;
	case EXDB_INT32:
	case EXDB_DATE:
		return 4;
	case EXDB_INT64:
	case EXDB_FLOAT64:
	case EXDB_TIMESTAMP:
	case EXDB_DECIMAL:
		return 8;
	default:
		return 0;
	}
}

static bool is_in_value(const struct exdb_layout *layout, const struct exdb_column *columns,
			unsigned int i, unsigned int version)
{
	if (layout->columns[i].in_key || columns[i].added > version)
		return false;
	return !columns[i].dropped || columns[i].dropped > version;
}

static void place_columns(struct exdb_layout *layout, const struct exdb_column *columns,
			  unsigned int version)
{
	struct row_shape *shape = &layout->shapes[version];
	unsigned int i, offset, bit = 8;

	for (i = 0; i < layout->nr_columns; i++) {
		const bool there = is_in_value(layout, columns, i, version);

		shape->places[i].bit = there ? bit++ : NO_PLACE;
	}
	offset = (bit + 7) / 8;
	for (i = 0; i < layout->nr_columns; i++) {
		const unsigned int width = row_width(columns[i].type);

		if (shape->places[i].bit == NO_PLACE)
			continue;
		shape->places[i].place = width ? offset : shape->nr_text++;
		offset += width;
	}
	shape->ends = offset;
}

static unsigned int key_width(const struct exdb_layout *layout)
{
	unsigned int k, width, total = 0;

	for (k = 0; k < layout->nr_key; k++, total += width) {
		width = row_width(layout->columns[layout->key[k]].type);
		if (!width)
			return 0;
	}
	return total;
}

struct exdb_layout *exdb_layout_new(uint32_t n, const struct exdb_column *columns,
				    uint32_t key_columns, const uint32_t *key, uint32_t version,
				    uint64_t schema)
{
	struct exdb_layout *layout;
	unsigned int i, vectors = 0;

	if (!n || n > EXDB_COLUMNS_MAX || !key_columns || key_columns > n ||
	    version > EXDB_VERSION_MAX)
		return NULL;
	layout = calloc(1, sizeof(*layout) + (version + 1) * sizeof(*layout->shapes));
	if (!layout)
		return NULL;
	layout->schema = schema;
	layout->version = version;
	layout->nr_columns = n;
	layout->nr_key = key_columns;
	for (i = 0; i < n; i++) {
		layout->columns[i].type = columns[i].type;
		layout->columns[i].vector = columns[i].dropped ? NO_PLACE : vectors++;
	}
	for (i = 0; i < key_columns; i++) {
		layout->key[i] = key[i];
		layout->columns[key[i]].in_key = true;
	}
	layout->key_width = key_width(layout);
	for (i = 0; i <= version; i++)
		place_columns(layout, columns, i);
	if (layout->shapes[version].ends + 2 * layout->shapes[version].nr_text <= EXDB_ROW_MAX)
		return layout;
	free(layout);
	return NULL;
}

int exdb_layout_add_index(struct exdb_layout *layout, uint32_t tree, bool unique, uint32_t n,
			  const uint32_t *columns)
{
	struct row_index *index = &layout->indexes[layout->nr_indexes];
	unsigned int i;

	if (layout->nr_indexes == EXDB_INDEXES_MAX || !n || n > EXDB_INDEX_COLUMNS_MAX)
		return -E2BIG;
	*index = (struct row_index){ .tree = tree, .unique = unique, .nr_columns = n };
	for (i = 0; i < n; i++)
		index->columns[i] = columns[i];
	layout->nr_indexes++;
	return 0;
}

void exdb_layout_free(struct exdb_layout *layout)
{
	free(layout);
}

static const uint8_t *text_of(const struct exdb_vector *v, uint64_t i, unsigned int *length)
{
	*length = v->offsets[i + 1] - v->offsets[i];
	return (const uint8_t *)v->values + v->offsets[i];
}

int row_encode_key(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
		   struct exdb_key *key)
{
	unsigned int k, length;
	int ret = 0;

	key->length = 0;
	for (k = 0; k < layout->nr_key && !ret; k++) {
		const struct row_column *column = &layout->columns[layout->key[k]];
		const struct exdb_vector *v = &columns[column->vector];
		const uint8_t *text;

		switch (column->type) {
		case EXDB_BOOL:
			ret = exdb_key_put_byte(key, ((const uint8_t *)v->values)[i]);
			break;
		case EXDB_INT32:
		case EXDB_DATE:
			ret = exdb_key_put_int32(key, ((const int32_t *)v->values)[i]);
			break;
		case EXDB_INT64:
		case EXDB_TIMESTAMP:
		case EXDB_DECIMAL:
			ret = exdb_key_put_int64(key, ((const int64_t *)v->values)[i]);
			break;
		case EXDB_FLOAT64:
			ret = exdb_key_put_float64(key, ((const double *)v->values)[i]);
			break;
		default:
			text = text_of(v, i, &length);
			ret = exdb_key_put_text(key, text, length);
		}
	}
	return ret;
}

static const struct exdb_vector *vector_of(const struct exdb_layout *layout,
					   const struct exdb_vector *columns, unsigned int c)
{
	return &columns[layout->columns[c].vector];
}

static bool is_valid(const struct exdb_vector *v, uint64_t i)
{
	return !v->valid || v->valid[i];
}

/* Bytes of a text of the value, 0 for a null and for what is no text of it. */
static unsigned int text_length(const struct exdb_layout *layout,
				const struct exdb_vector *columns, uint64_t i, unsigned int c)
{
	const struct row_place *place = &layout->shapes[layout->version].places[c];
	const struct exdb_vector *v;
	unsigned int length;

	if (place->bit == NO_PLACE || row_width(layout->columns[c].type))
		return 0;
	v = vector_of(layout, columns, c);
	if (!is_valid(v, i))
		return 0;
	text_of(v, i, &length);
	return length;
}

/* Choose the texts that become large, so that @room bytes do for all: a bit for each. */
static int choose_large(const struct exdb_layout *layout, const struct exdb_vector *columns,
			uint64_t i, unsigned int room, bool *large)
{
	uint64_t total = 0;
	unsigned int c;

	for (c = 0; c < layout->nr_columns; c++)
		total += text_length(layout, columns, i, c);
	memset(large, 0, layout->nr_columns * sizeof(*large));
	while (total > room) {
		unsigned int longest = 0, most = EXTENT_REF;

		for (c = 0; c < layout->nr_columns; c++) {
			const unsigned int length = text_length(layout, columns, i, c);

			if (!large[c] && length > most) {
				longest = c;
				most = length;
			}
		}
		if (most == EXTENT_REF || most > EXDB_VALUE_MAX)
			return -EMSGSIZE;
		large[longest] = true;
		total -= most - EXTENT_REF;
	}
	return 0;
}

static void add_large(struct row_large *large, const struct exdb_vector *v, uint64_t i)
{
	unsigned int length;

	large->texts[large->nr] = text_of(v, i, &length);
	large->lengths[large->nr++] = length;
	large->bytes += length;
}

/* The mark of a text, and its bytes at @*end unless it is large. */
static unsigned int put_text(const struct exdb_vector *v, uint64_t i, uint8_t *value,
			     unsigned int *end, unsigned int texts, struct row_large *large,
			     bool is_large)
{
	const uint8_t *text;
	unsigned int length;

	if (is_large) {
		add_large(large, v, i);
		return (*end - texts) | ROW_LARGE;
	}
	if (is_valid(v, i)) {
		text = text_of(v, i, &length);
		memcpy(value + *end, text, length);
		*end += length;
	}
	return *end - texts;
}

static void put_refs(uint8_t *value, unsigned int *end, const struct row_large *large)
{
	unsigned int i;

	for (i = 0; i < large->nr; i++, *end += EXTENT_REF) {
		const struct extent_ref ref = { .length = large->lengths[i] };

		memcpy(value + *end, &ref, sizeof(ref));
	}
}

int row_encode(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
	       struct exdb_key *key, uint8_t *value, unsigned int *value_length,
	       struct row_large *large)
{
	const struct row_shape *shape = &layout->shapes[layout->version];
	const unsigned int texts = shape->ends + 2 * shape->nr_text;
	bool is_large[EXDB_COLUMNS_MAX];
	unsigned int c, end = texts;
	int ret = row_encode_key(layout, columns, i, key);

	large->nr = 0;
	large->bytes = 0;
	if (!ret && key->length + texts > EXDB_ROW_MAX)
		ret = -EMSGSIZE;
	if (!ret)
		ret = choose_large(layout, columns, i, EXDB_ROW_MAX - key->length - texts,
				   is_large);
	if (ret)
		return ret;
	memset(value, 0, texts);
	value[0] = layout->version;
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_place *place = &shape->places[c];
		const unsigned int width = row_width(layout->columns[c].type);
		const struct exdb_vector *v;
		uint16_t mark;

		if (place->bit == NO_PLACE)
			continue;
		v = vector_of(layout, columns, c);
		if (!is_valid(v, i))
			value[place->bit / 8] |= 1u << place->bit % 8;
		else if (width)
			memcpy(value + place->place, (const uint8_t *)v->values + i * width, width);
		if (width)
			continue;
		mark = put_text(v, i, value, &end, texts, large, is_large[c]);
		memcpy(value + shape->ends + 2 * place->place, &mark, sizeof(mark));
	}
	put_refs(value, &end, large);
	*value_length = end;
	return 0;
}

/* Room for a text of row @i, or NULL, and what would do. */
static uint8_t *make_text(struct exdb_vector *v, uint64_t i, unsigned int length)
{
	const uint64_t from = v->offsets[i], to = from + length;

	if (to > v->capacity) {
		v->needed = to;
		return NULL;
	}
	v->offsets[i + 1] = to;
	return (uint8_t *)v->values + from;
}

static int add_text(struct exdb_vector *v, uint64_t i, const uint8_t *text, unsigned int length)
{
	uint8_t *to = make_text(v, i, length);

	if (!to)
		return 1;
	memcpy(to, text, length);
	return 0;
}

static int decode_key(const struct exdb_layout *layout, const uint8_t *at,
		      struct exdb_vector *columns, uint64_t i)
{
	uint8_t text[EXDB_KEY_MAX];
	unsigned int k, length;

	for (k = 0; k < layout->nr_key; k++) {
		const struct row_column *column = &layout->columns[layout->key[k]];
		const unsigned int width = row_width(column->type);
		struct exdb_vector *v = &columns[column->vector];

		if (width) {
			if (v->values)
				key_get_fixed(column->type, at, (uint8_t *)v->values + i * width);
			at += width;
			continue;
		}
		length = key_get_text(&at, text);
		if (v->values && add_text(v, i, text, length))
			return 1;
	}
	return 0;
}

const uint8_t *row_skip_part(unsigned int type, const uint8_t *at, const uint8_t *end)
{
	const unsigned int width = row_width(type);

	if (width)
		return end - at < width ? NULL : at + width;
	while (end - at >= 2 && (at[0] || at[1]))
		at += at[0] ? 1 : 2;
	return end - at < 2 ? NULL : at + 2;
}

static bool has_sound_key(const struct exdb_layout *layout, const struct btree_row *row)
{
	const uint8_t *at = row->key, *end = at + row->key_length;
	unsigned int k;

	for (k = 0; k < layout->nr_key && at; k++)
		at = row_skip_part(layout->columns[layout->key[k]].type, at, end);
	return at == end;
}

int row_shape(const struct exdb_layout *layout, const struct btree_row *row,
	      const struct row_shape **shape)
{
	if (!row->value_length)
		return -EUCLEAN;
	if (row->value[0] > layout->version)
		return -ESTALE;
	*shape = &layout->shapes[row->value[0]];
	return has_sound_key(layout, row) && row_has_sound_texts(*shape, row) ? 0 : -EUCLEAN;
}

/* Which of the row's large values a text is. */
static unsigned int large_index(const struct row_shape *shape, const struct btree_row *row,
				unsigned int place)
{
	unsigned int i, n = 0;

	for (i = 0; i < place; i++)
		n += row_text_is_large(shape, row->value, i);
	return n;
}

uint32_t row_large_length(const struct row_shape *shape, const struct btree_row *row,
			  unsigned int place)
{
	return extent_ref_at(row->value, row->value_length, row->nr_large,
			     large_index(shape, row, place))
		.length;
}

int row_read_large(struct exdb_worker *w, const struct row_shape *shape,
		   const struct btree_row *row, unsigned int place, uint8_t *out)
{
	const unsigned int which = large_index(shape, row, place);
	const struct extent_ref ref =
		extent_ref_at(row->value, row->value_length, row->nr_large, which);

	if (!row->large)
		return extent_read(w, &ref, out);
	/* the values before it have as many bytes as references that end with its own say */
	memcpy(out,
	       row->large + extent_total(row->value,
					 row->value_length - (row->nr_large - which) * EXTENT_REF,
					 which),
	       ref.length);
	return 0;
}

static int add_large_text(struct exdb_worker *w, const struct row_shape *shape,
			  const struct btree_row *row, unsigned int place, struct exdb_vector *v,
			  uint64_t i)
{
	uint8_t *to = make_text(v, i, row_large_length(shape, row, place));

	return to ? row_read_large(w, shape, row, place, to) : 1;
}

/* One that is not in the key; the row may be older than the column. */
static int decode_column(struct exdb_worker *w, const struct row_shape *shape,
			 const struct row_place *place, unsigned int width,
			 const struct btree_row *row, struct exdb_vector *v, uint64_t i)
{
	const uint8_t *value = row->value;
	const bool there = place->bit != NO_PLACE;
	const uint8_t *text;
	unsigned int length;

	if (v->valid)
		v->valid[i] = there && !(value[place->bit / 8] >> place->bit % 8 & 1);
	if (!there && width)
		memset((uint8_t *)v->values + i * width, 0, width);
	else if (!there)
		return add_text(v, i, value, 0);
	else if (width)
		memcpy((uint8_t *)v->values + i * width, value + place->place, width);
	else if (row_text_is_large(shape, value, place->place))
		return add_large_text(w, shape, row, place->place, v, i);
	else {
		text = row_text(shape, value, place->place, &length);
		return add_text(v, i, text, length);
	}
	return 0;
}

int row_decode(struct exdb_worker *w, const struct exdb_layout *layout,
	       const struct btree_row *row, struct exdb_vector *columns, uint64_t i)
{
	const struct row_shape *shape;
	unsigned int c;
	bool full = false;
	int ret = row_shape(layout, row, &shape);

	if (ret)
		return ret;
	if (decode_key(layout, row->key, columns, i))
		return 1;
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_column *column = &layout->columns[c];
		struct exdb_vector *v;

		if (column->vector == NO_PLACE)
			continue;
		v = &columns[column->vector];
		if (v->values && column->in_key && v->valid)
			v->valid[i] = 1;
		if (!v->values || column->in_key)
			continue;
		/* one that has no room: others still say what they need */
		ret = decode_column(w, shape, &shape->places[c], row_width(column->type), row, v,
				    i);
		if (ret < 0)
			return ret;
		full |= ret;
	}
	return full;
}
