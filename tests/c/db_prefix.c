// SPDX-License-Identifier: MIT
/*
 * Leaves with prefixes beside a plain table of their entries: two neighbours, at which keys come and go that
 * share long beginnings, some of them, or none.  After each step both are sound, have what the table has, and no
 * entry was refused that fits.
 *
 *	./db_prefix SEED STEPS
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "latch.h"

#define ENTRIES	1024u

struct item {
	struct exdb_key key;
	uint8_t value[64];
	unsigned int value_length;
	bool right;
};

static struct item table[ENTRIES];
static unsigned int n, longest, squeezed, shortened, joined, balanced, split;
static struct node *left, *right;
static uint64_t seed;

static unsigned int below(unsigned int limit)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)(seed >> 33) % limit;
}

/* One of some families, which differ in how much they have in common with one another. */
static void make_key(struct exdb_key *key, unsigned int families)
{
	static const char *const names[] = {
		"europe/germany/customer-0000012/orders", "europe/germany/customer-0000013/orders",
		"europe/france/customer-1/orders", "asia", "",
	};
	const char *name = names[below(families)];
	unsigned int i, tail = 1 + below(3);

	key->length = (unsigned int)strlen(name);
	memcpy(key->bytes, name, key->length);
	for (i = 0; i < tail; i++)
		key->bytes[key->length++] = (uint8_t)below(i ? 3 : 256);
}

static int compare_item(const struct item *item, const struct exdb_key *key)
{
	const unsigned int shorter = item->key.length < key->length ? item->key.length : key->length;
	const int order = memcmp(item->key.bytes, key->bytes, shorter);

	return order ? order : (int)item->key.length - (int)key->length;
}

static unsigned int place_of(const struct exdb_key *key)
{
	unsigned int i = 0;

	while (i < n && compare_item(&table[i], key) < 0)
		i++;
	return i;
}

/* Entries of the left leaf. */
static unsigned int cut(void)
{
	unsigned int i = 0;

	while (i < n && !table[i].right)
		i++;
	return i;
}

static void set_cut(unsigned int at)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		table[i].right = i >= at;
}

static void look_at(const struct node *leaf, unsigned int first, unsigned int end)
{
	struct exdb_key key;
	unsigned int i;
	bool found;

	CHECK(node_is_sound(leaf));
	CHECK(leaf->count == end - first);
	longest = leaf->prefix_length > longest ? leaf->prefix_length : longest;
	for (i = first; i < end; i++) {
		const struct item *item = &table[i];

		node_copy_key(&key, leaf, i - first);
		CHECK(!compare_item(item, &key));
		CHECK(leaf->slots[i - first].value_length == item->value_length);
		CHECK(leaf->slots[i - first].nr_large == item->value[0] % 2);
		CHECK(!memcmp(node_value(leaf, i - first), item->value, item->value_length));
		CHECK(node_lower_bound(leaf, key.bytes, key.length, &found) == i - first && found);
		CHECK(!node_compare(leaf, i - first, key.bytes, key.length));
	}
}

static void look_at_both(void)
{
	const unsigned int at = cut();

	look_at(left, 0, at);
	look_at(right, at, n);
}

/* A key that is not there goes where it belongs. */
static void search(const struct exdb_key *key)
{
	const unsigned int i = place_of(key), at = cut();
	const bool here = i < n && !compare_item(&table[i], key);
	bool found;

	CHECK(node_lower_bound(left, key->bytes, key->length, &found) == (i < at ? i : at));
	CHECK(found == (here && i < at));
	CHECK(node_upper_bound(right, key->bytes, key->length) == (i < at ? 0 : i - at + here));
}

/* What all entries of a leaf and this one take, were each key whole but for what all begin with. */
static unsigned int least_size(unsigned int first, unsigned int end, const struct item *more)
{
	unsigned int i, k, sum = more->key.length + more->value_length + 12, common = more->key.length;

	for (i = first; i < end; i++) {
		for (k = 0; k < common && k < table[i].key.length &&
			    table[i].key.bytes[k] == more->key.bytes[k]; k++)
			;
		common = k;
		sum += table[i].key.length + table[i].value_length + 12;
	}
	return sum - common * (end - first);
}

static bool put(struct node *leaf, unsigned int i, const struct item *item)
{
	const struct exdb_key *key = &item->key;
	const unsigned int prefix = leaf->prefix_length;
	const unsigned int size = node_entry_size(key->length, item->value_length) - prefix;

	if (!node_fits(leaf, key->bytes, key->length, item->value_length, 0)) {
		if (!node_squeeze(leaf, key->bytes, key->length, size - node_free_space(leaf)))
			return false;
		squeezed++;
		CHECK(leaf->prefix_length > prefix);
		CHECK(node_shared(leaf, key->bytes, key->length) == leaf->prefix_length);
		CHECK(node_fits(leaf, key->bytes, key->length, item->value_length, 0));
	}
	node_insert(leaf, i, key->bytes, key->length, item->value, item->value_length);
	leaf->slots[i].nr_large = item->value[0] % 2;
	shortened += prefix && leaf->prefix_length < prefix;
	return true;
}

/* A left leaf that is full gives half to a right one that is empty. */
static void split_left(const struct exdb_key *key)
{
	const unsigned int at = node_middle(left), prefix = left->prefix_length;

	CHECK(at && at < left->count);
	node_move_tail(left, at, right, place_of(key) > at ? key->bytes : NULL, key->length);
	CHECK(right->prefix_length >= prefix && left->prefix_length == prefix);
	set_cut(at);
	split++;
}

static void insert(const struct item *item)
{
	const unsigned int i = place_of(&item->key), at = cut();
	const bool to_right = i > at || (i == at && right->count);
	struct node *leaf = to_right ? right : left;

	if (n == ENTRIES || (i < n && !compare_item(&table[i], &item->key)))
		return;
	if (!put(leaf, to_right ? i - at : i, item)) {
		/* a longer prefix is not taken where it gains less than a sixteenth */
		CHECK(least_size(to_right ? at : 0, to_right ? n : at, item) > NODE_SPACE - NODE_SPACE / 16);
		if (!right->count)
			split_left(&item->key);
		return;
	}
	memmove(&table[i + 1], &table[i], (n - i) * sizeof(*table));
	table[i] = *item;
	table[i].right = to_right;
	n++;
}

static void remove_one(void)
{
	const unsigned int i = n ? below(n) : 0, at = cut();

	if (!n)
		return;
	if (i < at)
		node_remove(left, i);
	else
		node_remove(right, i - at);
	n--;
	memmove(&table[i], &table[i + 1], (n - i) * sizeof(*table));
}

static void mend(void)
{
	struct fence separator;

	CHECK(btree_leaves_ascend(left, right));
	CHECK(!left->count || !right->count || !btree_leaves_ascend(right, left));
	if (btree_leaves_fit(left, right)) {
		btree_join_leaves(left, right);
		node_reset(right, NULL, 0);
		set_cut(n);
		joined++;
		return;
	}
	btree_balance_leaves(left, right, &separator);
	set_cut(left->count);
	balanced++;
	CHECK(node_lower_bound(left, separator.key, separator.length, &(bool){ 0 }) == left->count);
	CHECK(node_lower_bound(right, separator.key, separator.length, &(bool){ 0 }) == 0);
}

static void step(unsigned int i)
{
	/* for a while leaves fill up, then they empty; for a while keys are of one family */
	const bool filling = i / 512 % 2 == 0;
	struct item item = { .value_length = 1 + below(64) };
	struct exdb_key beginning;

	make_key(&item.key, i / 2048 % 2 || !below(64) ? 5 : 1 + i / 4096 % 2);
	memset(item.value, (int)below(256), item.value_length);
	if (item.value_length < EXTENT_REF)
		item.value[0] &= 0xfe;
	search(&item.key);
	beginning = item.key;
	beginning.length = below(beginning.length);
	search(&beginning);
	if (below(8) < (filling ? 7 : 2))
		insert(&item);
	else
		remove_one();
	if (!below(32))
		mend();
}

/* What a full leaf and a key that comes to it have in common is less than what the leaf has. */
static void squeeze_for_a_stranger(void)
{
	static const uint8_t value[64];
	struct exdb_key key = { .length = 40 };

	memset(key.bytes, 'k', sizeof(key.bytes));
	node_reset(left, NULL, 0);
	for (; node_fits(left, key.bytes, key.length, sizeof(value), 0); key.bytes[39]++)
		node_insert(left, left->count, key.bytes, key.length, value, sizeof(value));
	key.bytes[30]++;
	CHECK(!left->prefix_length);
	CHECK(!node_squeeze(left, key.bytes, key.length, NODE_SPACE));
	CHECK(node_squeeze(left, key.bytes, key.length, 64) && left->prefix_length == 30);
	CHECK(node_fits(left, key.bytes, key.length, sizeof(value), 0));
	CHECK(!node_squeeze(left, key.bytes, key.length, 0));
	CHECK(node_is_sound(left));
}

/* Two leaves whose entries fill one to the last byte, or take @more. */
static void join_exactly(unsigned int more)
{
	static const uint8_t value[256];
	struct exdb_key key = { .length = 40 };
	unsigned int i, last = NODE_SPACE - 39 - 49 * (12 + 1 + 64) - 12 - 1 + more;

	memset(key.bytes, 'k', sizeof(key.bytes));
	node_reset(left, NULL, 0);
	node_reset(right, NULL, 0);
	for (i = 0; i < 50; i++, key.bytes[39]++)
		node_insert(i < 25 ? left : right, i % 25, key.bytes, key.length, value, i ? 64 : last);
	CHECK(btree_leaves_fit(left, right) == !more);
	if (!more) {
		btree_join_leaves(left, right);
		CHECK(node_is_sound(left) && !node_free_space(left));
	}
	node_reset(left, NULL, 0);
	node_reset(right, NULL, 0);
}

/* Lengths that are not what the rest of the page says of a sound leaf with a prefix. */
static void damage(void)
{
	static const int by[] = { 1, -1, -30, 600, 4096 };
	const unsigned int prefix = left->prefix_length;
	unsigned int i;

	CHECK(prefix == 30);
	for (i = 0; i < sizeof(by) / sizeof(*by); i++) {
		left->prefix_length = (uint16_t)((int)prefix + by[i]);
		CHECK(!node_is_sound(left));
	}
	/* as if what is behind the entries had been a longer prefix always */
	left->prefix_length = EXDB_KEY_MAX + 1;
	left->begin = PAGE_SIZE - left->prefix_length;
	left->count = 1;
	left->garbage = 0;
	left->head_at = 0;
	left->slots[0] = (struct node_slot){ .offset = left->begin };
	CHECK(!node_is_sound(left));
	left->prefix_length = EXDB_KEY_MAX;
	left->slots[0].offset = left->begin = PAGE_SIZE - EXDB_KEY_MAX;
	CHECK(node_is_sound(left));
	left->count = 0;
	CHECK(!node_is_sound(left));
	node_reset(left, NULL, 0);
}

/* Inner pages have none: who reads them without a latch does not look for one. */
static void damage_inner(void)
{
	const uint64_t child = 9;

	node_init(left, 2, 1);
	left->link = 7;
	node_insert(left, 0, (const uint8_t *)"abc", 3, &child, sizeof(child));
	CHECK(node_is_sound(left));
	node_set_prefix(left, 1);
	CHECK(!node_is_sound(left));
	node_init(left, 2, 0);
}

static void insert_number(uint64_t number, unsigned int common)
{
	const uint64_t key = __builtin_bswap64(number);
	bool found;
	const unsigned int i =
		node_lower_bound(left, (const uint8_t *)&key, sizeof(key), &found);

	CHECK(!found);
	node_insert(left, i, (const uint8_t *)&key, sizeof(key), "", 0);
	CHECK(node_is_sound(left) && left->head_at == common);
	CHECK(node_lower_bound(left, (const uint8_t *)&key, sizeof(key), &found) == i && found);
}

static void find_none(const char *key, unsigned int length, unsigned int place)
{
	bool found;

	CHECK(node_lower_bound(left, (const uint8_t *)key, length, &found) == place && !found);
}

/* Heads begin behind what all keys have in common, however they come, and keys that have not are found there. */
static void move_heads(void)
{
	const uint64_t base = 0x4142434445460000;

	node_init(left, 2, 0);
	insert_number(base + 16, 0);
	insert_number(base + 18, 7);
	insert_number(base + 255, 7);
	insert_number(base + 17, 7);
	insert_number(base + 256, 6);
	insert_number(base - 1, 5);
	find_none("", 0, 0);
	find_none("ABCD", 4, 0);
	find_none("ABCDE", 5, 0);
	find_none("ABCDEF\0", 7, 1);
	find_none("ABCDEF\0\x11", 9, 3);
	find_none("ABCDEF\1\0\0", 9, 6);
	find_none("ABCDF", 5, 6);
	find_none("ABA", 3, 0);
	find_none("B", 1, 6);
	node_remove(left, 0);
	CHECK(node_is_sound(left) && left->head_at == 5);
	node_truncate(left, 4);
	CHECK(node_is_sound(left) && left->head_at == 7);
	left->slots[1].head++;
	CHECK(!node_is_sound(left));
	left->slots[1].head--;
	left->head_at = 8;
	CHECK(!node_is_sound(left));
	node_init(left, 2, 0);
	left->head_at = 1;
	CHECK(!node_is_sound(left));
	node_init(left, 2, 0);
}

int main(int argc, char **argv)
{
	unsigned int i, steps;

	CHECK(argc == 3);
	seed = strtoul(argv[1], NULL, 10);
	steps = (unsigned int)strtoul(argv[2], NULL, 10);
	left = malloc(PAGE_SIZE);
	right = malloc(PAGE_SIZE);
	CHECK(left && right);
	node_init(left, 2, 0);
	node_init(right, 3, 0);
	squeeze_for_a_stranger();
	damage();
	damage_inner();
	move_heads();
	join_exactly(0);
	join_exactly(1);
	for (i = 0; i < steps; i++) {
		step(i);
		look_at_both();
	}
	CHECK(longest > 30 && squeezed && shortened && joined && balanced && split);
	free(left);
	free(right);
	puts("ok");
	return 0;
}
