PRAGMA journal_mode = WAL;
PRAGMA mmap_size = 67108864;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, body BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO item SELECT i, 'name ' || (i * 7919 % 20011), i * 31 % 1009, zeroblob(i % 200) FROM n;
CREATE INDEX item_name ON item (name);
BEGIN;
UPDATE item SET price = price + 1 WHERE id % 3 = 0;
DELETE FROM item WHERE id % 10 = 0;
COMMIT;
BEGIN;
DELETE FROM item;
ROLLBACK;
SELECT count(*), sum(price), sum(length(body)) FROM item;
SELECT a.name, b.name FROM item AS a JOIN item AS b ON a.price = b.id ORDER BY a.name DESC LIMIT 3;
PRAGMA wal_checkpoint(TRUNCATE);
VACUUM;
PRAGMA integrity_check;
SELECT count(DISTINCT price) FROM item;
